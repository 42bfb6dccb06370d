"""The events that every part sends or stores: one metric, 16 customers, two dimensions, random 128-bit keys.

One event is about 190 bytes of JSON. The HTTP runs, the ceiling and the history describe the same content, so that
their figures may be compared.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EVENT_TYPE = "compute"
METRIC = "compute_seconds"
PROVIDERS = ("aws", "gcp", "azure")
REGIONS = ("eu-west", "eu-north", "us-east", "us-west")
CUSTOMERS = tuple(f"cust_{number:02}" for number in range(16))
# Events arrive shortly after they happened.
RECENT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Usage:
    """An event without its key. `value` has two decimals, `occurred_at` microseconds."""

    customer: str
    value: str
    occurred_at: str
    provider: str
    region: str

    @property
    def properties(self) -> str:
        return f'{{"provider":"{self.provider}","region":"{self.region}"}}'

    def as_json(self, key: str) -> str:
        return (
            f'{{"idempotency_key":"{key}","customer":"{self.customer}","type":"{EVENT_TYPE}","value":"{self.value}",'
            f'"timestamp":"{self.occurred_at}","properties":{self.properties}}}'
        )


def recent_usages(*, seed: int, now: datetime | None = None) -> Iterator[Usage]:
    """Yield usages of the last minutes without end; the same seed gives the same customers and values."""
    choose = random.Random(seed)
    now = now or datetime.now(UTC)
    while True:
        occurred_at = now - RECENT * choose.random()
        yield Usage(
            customer=choose.choice(CUSTOMERS),
            value=f"{choose.randrange(1, 100_000) / 100:.2f}",
            occurred_at=occurred_at.isoformat(timespec="microseconds"),
            provider=choose.choice(PROVIDERS),
            region=choose.choice(REGIONS),
        )
