"""Seats: a customer pays for the distinct members that its workspace has, and members join and leave.

Each event adds or removes one member. Adding a member that is there, or removing one that is not, changes nothing.
"""

import argparse
import contextlib
import json
import os
from datetime import timedelta

from meterbook import AlreadyExistsError, Client, Event, Operation, current_month

METRIC = "active_seats"
CUSTOMER = "initech"
# In this order: the same people join from two places, one leaves, one comes back.
CHANGES = [
    (Operation.ADD, ["peter", "samir", "michael", "milton"]),
    (Operation.ADD, ["peter", "joanna"]),
    (Operation.REMOVE, ["milton", "samir", "nobody"]),
    (Operation.ADD, ["samir"]),
]


def list_changes() -> list[Event]:
    """Return the changes with fixed keys and times, so that a second run sends the same events."""
    month = current_month().start
    return [
        Event(
            idempotency_key=f"seats:{month:%Y-%m}:{step}:{member}",
            customer=CUSTOMER,
            metric=METRIC,
            value=member,
            operation=operation,
            timestamp=month + timedelta(microseconds=step),
        )
        for step, (operation, members) in enumerate(CHANGES)
        for member in members
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("METERBOOK_URL", "http://localhost:8000"))
    parser.add_argument("--api-key", default=os.environ.get("METERBOOK_API_KEY"), help="METERBOOK_API_KEY")
    options = parser.parse_args()

    with Client(options.url, options.api_key) as client:
        with contextlib.suppress(AlreadyExistsError):
            client.metrics.create(METRIC, "count_unique", unit="seat")

        seats = []
        for event in list_changes():
            client.ingest(event).raise_for_rejected()
            seats.append(int(client.query_realtime(CUSTOMER, METRIC).value))
        print(json.dumps({"seats": seats[-1], "after_each_change": seats}))


if __name__ == "__main__":
    main()
