"""Reads of the Weave dialect. One module per noun; import from here."""

from metering.dialects.weave.queries.instances import get_weave_settings, is_port_open_to, list_instances
from metering.dialects.weave.queries.quarantine import WaitingInstance, list_quarantined, list_waiting_instances

__all__ = [
    "WaitingInstance",
    "get_weave_settings",
    "is_port_open_to",
    "list_instances",
    "list_quarantined",
    "list_waiting_instances",
]
