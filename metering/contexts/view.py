"""What a page of usage looks at, resolved from its address. Every read of the page takes its arguments from here."""

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from accounts.models import Customer, Organization
from metering.contexts.address import DayRange, MetricAddress
from metering.domain import Span
from metering.models import Metric


@dataclass(frozen=True)
class UsageView:
    """One metric, of one customer or all, over the days of the address."""

    organization: Organization
    metric: Metric
    address: DayRange
    # None: all customers together.
    customer: Customer | None
    # The organization's: the page's days begin at its midnights.
    zone: ZoneInfo
    now: datetime

    @property
    def span(self) -> Span:
        return Span(self.address.start(self.zone), self.address.end(self.zone))

    @property
    def customer_id(self) -> int | None:
        return self.customer.pk if self.customer else None


@dataclass(frozen=True)
class MetricView(UsageView):
    """What the page of one metric looks at."""

    address: MetricAddress
