"""Writes of the Weave dialect: who is mapped to whom, what the listener took in, what the quarantine lets go.

One module per noun; import from here.
"""

from metering.dialects.weave.services.instances import (
    InstanceMapped,
    PortClosed,
    map_instance,
    unmap_instance,
    update_weave_settings,
)
from metering.dialects.weave.services.intake import StoreResult, store_records
from metering.dialects.weave.services.pruning import prune_unowned_records
from metering.dialects.weave.services.quarantine import discard_quarantined
from metering.dialects.weave.services.release import ReleaseResult, release_quarantined

__all__ = [
    "InstanceMapped",
    "PortClosed",
    "ReleaseResult",
    "StoreResult",
    "discard_quarantined",
    "map_instance",
    "prune_unowned_records",
    "release_quarantined",
    "store_records",
    "unmap_instance",
    "update_weave_settings",
]
