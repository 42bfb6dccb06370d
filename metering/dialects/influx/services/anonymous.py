"""Reports without a token: kept apart from every organization, few and not for long.

Whoever floods the server with them loses them and is not told: the client must not be able to notice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from accounts.rate_limits import take_share
from metering.dialects.influx.domain import Report
from metering.dialects.influx.models import AnonymousReport

# A server sends a few an hour; many of them may stand behind one address.
MAX_PER_MINUTE_AND_ADDRESS = 60
# Of all addresses together, so that many of them cannot fill the disk between two prunings.
MAX_PER_MINUTE = 600
# The operator looks at the newest; the table is no archive.
MAX_KEPT = 20_000
KEPT_FOR = timedelta(days=30)
MAX_PAYLOAD_BYTES = 16 * 1024


def keep_anonymous_report(*, reports: Sequence[Report], body: bytes, address: str, now: datetime) -> bool:
    """Keep one row for a request; return whether it was kept. Without Redis, which counts them, nothing is kept.

    The address is counted under its hash and not stored.
    """
    if not reports or not _is_within_limits(address, now):
        return False
    first = reports[0]
    AnonymousReport.objects.create(
        kind=first.kind,
        product=first.server.product,
        cluster_id=first.server.cluster_id,
        server_id=first.server.server_id,
        value_count=sum(len(report.values) for report in reports),
        payload=body.decode() if len(body) <= MAX_PAYLOAD_BYTES else "",
        received_at=now,
    )
    return True


def _is_within_limits(address: str, now: datetime) -> bool:
    """The address first: one that floods must not use up the share of all."""
    name = hashlib.sha256(address.encode()).hexdigest()
    shares = ((f"influx:{name}", MAX_PER_MINUTE_AND_ADDRESS), ("influx", MAX_PER_MINUTE))
    verdicts = (take_share(name=share, limit=limit, now=now) for share, limit in shares)
    return all(verdict is not None and verdict.is_allowed for verdict in verdicts)


def prune_anonymous_reports(*, now: datetime) -> int:
    """Delete what is too old, and the oldest of what is too many. Returns how many; safe to repeat."""
    old, _ = AnonymousReport.objects.filter(received_at__lt=now - KEPT_FOR).delete()
    newest_surplus = AnonymousReport.objects.order_by("-pk").values_list("pk", flat=True)[MAX_KEPT : MAX_KEPT + 1]
    surplus = 0
    for pk in newest_surplus:
        surplus, _ = AnonymousReport.objects.filter(pk__lte=pk).delete()
    return old + surplus
