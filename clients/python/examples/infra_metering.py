"""Compute seconds of virtual machines, split by provider and region.

Every machine reports how long it ran. A report's key names the machine and the month, so a report that is sent twice
counts once. Filters are alternatives within a dimension and all must hold across dimensions.
"""

import argparse
import contextlib
import json
import os
from decimal import Decimal

from meterbook import AlreadyExistsError, Client, Dimension, Event, current_month

METRIC = "compute_seconds"
DIMENSIONS = [
    Dimension("provider", ("aws", "gcp", "azure")),
    Dimension("region", ("us-east", "us-west", "europe")),
    "size",
]
# Customer, machine, provider, region, size, seconds.
REPORTS = [
    ("initech", "vm-1", "aws", "us-east", "large", Decimal("3600.5")),
    ("initech", "vm-2", "aws", "europe", "small", Decimal("1800.25")),
    ("initech", "vm-3", "gcp", "us-east", "small", Decimal("900")),
    ("initech", "vm-4", "aws", "us-east", "small", Decimal("0.25")),
    ("hooli", "vm-5", "azure", "us-west", "large", Decimal("7200")),
]


def read_reports() -> list[Event]:
    """Read what the machines reported. Their time is fixed, so that a second run sends the same events."""
    month = current_month().start
    return [
        Event(
            idempotency_key=f"{machine}:{month:%Y-%m}",
            customer=customer,
            metric=METRIC,
            value=seconds,
            timestamp=month,
            properties={"provider": provider, "region": region, "size": size},
        )
        for customer, machine, provider, region, size, seconds in REPORTS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("METERBOOK_URL", "http://localhost:8000"))
    parser.add_argument("--api-key", default=os.environ.get("METERBOOK_API_KEY"), help="METERBOOK_API_KEY")
    options = parser.parse_args()

    with Client(options.url, options.api_key) as client:
        with contextlib.suppress(AlreadyExistsError):
            client.metrics.create(METRIC, "sum", unit="second", dimensions=DIMENSIONS)

        client.ingest(read_reports()).raise_for_rejected()

        both = client.query(metric=METRIC, customer="initech", filters={"provider": "aws", "region": "us-east"})
        either = client.query(metric=METRIC, customer="initech", filters={"provider": ["aws", "gcp"]})
        rows = client.breakdown(metric=METRIC, group_by="provider")
        print(
            json.dumps(
                {
                    "initech_aws_us_east": str(both.value),
                    "initech_aws_or_gcp": str(either.value),
                    "by_provider": {str(row.group["provider"]): str(row.value) for row in rows},
                }
            )
        )


if __name__ == "__main__":
    main()
