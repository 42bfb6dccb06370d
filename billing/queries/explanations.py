"""What the explanation of an invoice line consists of (`billing.queries.explain` makes it). Shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from billing.domain.proration import WHOLE, Part
from billing.models import BillingPeriod, Invoice, InvoiceLine, PlanVersion
from billing.queries.charges import Charge
from billing.queries.folding import (
    DayQuantity,
    GroupQuantity,
)
from metering.models import Metric
from metering.queries import CountedEvent


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether each stage says what the line says. None: the line has no such stage, or it cannot be told any more."""

    events: bool | None = None
    rollups: bool | None = None
    steps: bool | None = None

    @property
    def is_whole(self) -> bool:
        return False not in {self.events, self.rollups, self.steps}


@dataclass(frozen=True, slots=True)
class LineEvent:
    """An event that the line's price takes. `adds`: to the quantity; None where quantities do not add up."""

    event: CountedEvent
    adds: Decimal | None
    is_deciding: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """What is counted of the price's usage now: by rollups, and by the raw events (None: not all are kept)."""

    rollups_quantity: Decimal
    events_quantity: Decimal | None


@dataclass(frozen=True, slots=True)
class UsageExplanation:
    """How a quantity comes about. Guarantee, where `is_folded`: events make the quantity, and so do days and groups
    where the metric adds up."""

    metric: Metric
    quantity: Decimal
    event_count: int | None
    is_folded: bool
    # Whether days and groups add up to the quantity; of a peak or a distinct count each stands for itself.
    does_add_up: bool
    days: list[DayQuantity]
    groups: list[GroupQuantity]
    # That make the quantity, where it does not add up: the peak, the last reading; of members the ones that last added.
    deciding: list[CountedEvent]
    deciding_count: int
    events: list[LineEvent]
    # The offset after which the next page begins.
    next_after: int | None
    kept: Kept | None
    # What came or was taken back since the cut-off; None where it cannot be told.
    changed_since: Decimal | None


@dataclass(frozen=True, slots=True)
class PriceChange:
    """A price of an adjusted period, as it was billed last and as it comes out. None: it had or has no such line."""

    name: str
    before_quantity: Decimal | None
    before_minor: Decimal | None
    now_quantity: Decimal | None
    now_minor: Decimal | None


@dataclass(frozen=True, slots=True)
class MetricChanges:
    """What became known of a metric between the cut-off at which the period was billed last and the invoice's own."""

    metric: Metric
    arrived: list[CountedEvent]
    taken_back: list[CountedEvent]
    arrived_count: int
    taken_back_count: int


@dataclass(frozen=True, slots=True)
class AdjustmentExplanation:
    # By invoice's number, what was charged of the period before.
    billed: list[tuple[str, Decimal]]
    # By credit note's number, what was given back of that, where it is counted: a difference below nothing.
    credited: list[tuple[str, Decimal]]
    # None: nothing stood on an invoice any more.
    former_known_at: datetime | None
    prices: list[PriceChange]
    # None: they are too many to be read, or not kept.
    changes: list[MetricChanges] | None


@dataclass(frozen=True, slots=True)
class TrueUpExplanation:
    commitment_minor: int
    # The term's periods and what each came to, in order.
    periods: list[tuple[BillingPeriod, int]]


@dataclass(frozen=True, slots=True)
class CreditExplanation:
    invoice: Invoice
    line: InvoiceLine | None


@dataclass(frozen=True, slots=True)
class LineExplanation:
    """All about one line. `problem` says, where raw events are gone, that the stored line is all there is."""

    invoice: Invoice
    line: InvoiceLine
    zone: ZoneInfo
    agrees: Agreement
    problem: str = ""
    charge: Charge | None = None
    version: PlanVersion | None = None
    # Of which part of the nominal period a price holds.
    part: Part = WHOLE
    usage: UsageExplanation | None = None
    adjustment: AdjustmentExplanation | None = None
    true_up: TrueUpExplanation | None = None
    credit: CreditExplanation | None = None
