"""Segments: a billing period, cut where the subscription's plan changes and where it pauses.

Owns which version of a plan holds when, and for which part of the nominal period. What a segment costs is rated
elsewhere; nothing is charged for time that lies in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

from billing.domain.periods import BillingPeriod, list_gaps
from billing.domain.proration import WHOLE, Part, part_of


@dataclass(frozen=True, slots=True)
class PhaseStart:
    """From when on a version of a plan holds: until the next phase, or for good."""

    starts_at: datetime
    version_id: int


@dataclass(frozen=True, slots=True)
class Pause:
    """A span in which nothing is charged; None: it lasts. Pauses may overlap, and an empty one is none."""

    starts_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Segment:
    """A half-open span of one billing period in which one version of a plan holds, and its part of the nominal one."""

    start: datetime
    end: datetime
    version_id: int
    part: Part


def list_segments(
    *,
    period: BillingPeriod,
    whole: BillingPeriod,
    phases: Sequence[PhaseStart],
    pauses: Sequence[Pause],
    is_prorated: bool,
) -> list[Segment]:
    """Return the segments of a period, in order. The phase that began last by a moment holds there.

    `whole` is the nominal period (`nominal_period`), of which the first one, up to the anchor, and one that an end cuts
    short are only parts. A trial, and a period that is not prorated, is one segment under the version at its start,
    whatever changes within it; none if it is paused throughout. Of phases that begin at once the last given holds, and
    time before the first phase is in no segment.
    """
    # Stable: phases of one moment keep their order.
    ordered = sorted(phases, key=attrgetter("starts_at"))
    running = list_gaps(pauses, period)
    if not is_prorated or period.is_trial:
        version_id = _version_at(ordered, period.start)
        if version_id is None or not running:
            return []
        return [Segment(period.start, period.end, version_id, WHOLE)]
    return [segment for span in running for segment in _cut(span, ordered, whole)]


def _cut(span: BillingPeriod, phases: Sequence[PhaseStart], whole: BillingPeriod) -> list[Segment]:
    """Return the segments of a span without pauses: one per version, not per phase, where a phase changes nothing."""
    edges = [span.start, *(phase.starts_at for phase in phases if span.start < phase.starts_at < span.end), span.end]
    versions: list[tuple[datetime, int | None]] = []
    for edge in edges[:-1]:
        version_id = _version_at(phases, edge)
        if not versions or versions[-1][1] != version_id:
            versions.append((edge, version_id))
    ends = [*(start for start, _ in versions[1:]), span.end]
    return [
        Segment(start, end, version_id, part_of(whole, start, end))
        for (start, version_id), end in zip(versions, ends, strict=True)
        if version_id is not None
    ]


def _version_at(phases: Sequence[PhaseStart], at: datetime) -> int | None:
    """Return the version that holds at a moment, of phases in order."""
    return next((phase.version_id for phase in reversed(phases) if phase.starts_at <= at), None)
