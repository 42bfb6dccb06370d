"""What the forward listener counts about itself, in the names of the original ingester.

Labels are bounded: an amount type that the catalog does not know is `other`, and instances have no label.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from metering.catalogs import CATALOGS
from metering.dialects.weave.domain import Arrival

CATALOG = "weave"
OTHER = "other"

EVENTS = Counter("billing_ingester_events", "Records taken in, by what became of them.", ["status", "amount_type"])
AMOUNTS = Counter(
    "billing_ingester_amounts", "Sum of the positive amounts of these records.", ["status", "amount_type"]
)
ACKNOWLEDGEMENTS = Counter("meterbook_forward_acks", "Chunks acknowledged after their records were stored.")
STREAMS_LOST = Counter("meterbook_forward_undecodable_streams", "Connections whose rest could not be decoded.")
CHUNKS_REFUSED = Counter("meterbook_forward_chunks_refused", "Messages that were larger than the listener holds.")
QUARANTINE_DROPPED = Counter(
    "meterbook_forward_quarantine_dropped", "Quarantined records of nobody that were too many or too old to keep."
)
# There is one listener: what the one before it said when it was killed is no longer true.
CONNECTIONS = Gauge(
    "meterbook_forward_connections", "Open connections of the forward listener.", multiprocess_mode="mostrecent"
)
WAITING_RECORDS = Gauge(
    "meterbook_forward_waiting_records", "Records read and not yet stored.", multiprocess_mode="mostrecent"
)

_known_types = frozenset(metric.event_type or metric.code for metric in CATALOGS[CATALOG].metrics)


def count_records(status: str, arrivals: Iterable[Arrival]) -> None:
    """Count records as `accepted` (stored, or stored before) or `quarantined`."""
    events: dict[str, int] = {}
    sums: dict[str, int] = {}
    for arrival in arrivals:
        amount = arrival.amount
        name = amount.amount_type if amount is not None and amount.amount_type in _known_types else OTHER
        events[name] = events.get(name, 0) + 1
        if amount is not None and amount.amount_value > 0:
            sums[name] = sums.get(name, 0) + amount.amount_value
    for name, count in events.items():
        EVENTS.labels(status, name).inc(count)
    for name, total in sums.items():
        AMOUNTS.labels(status, name).inc(total)
