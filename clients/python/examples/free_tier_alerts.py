"""Two thresholds on one metric: leaving the free tier sends an e-mail, reaching the hard cap blocks.

The alerts arrive by subscription. What was learnt and the place in the log are saved together after every alert, so
that a restart goes on where it was; handlers are idempotent, because an alert may come twice after a crash.
"""

import argparse
import contextlib
import json
import os
import time
from pathlib import Path

from meterbook import Alert, AlreadyExistsError, Client, Event, Subscription, Threshold, current_month

METRIC = "free_tier_calls"
FREE_TIER, HARD_CAP = 10, 50
# Who calls how often: one stays free, one leaves the free tier, one reaches the cap.
CALLS = {"tiny": 3, "growing": 12, "huge": 60}


class Handler:
    """Who was written to and who is blocked, in a file together with the offset up to which the log was handled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        state = json.loads(path.read_text()) if path.exists() else {}
        self.offset: int = state.get("offset", 0)
        self.upgrade_emails: list[str] = state.get("upgrade_emails", [])
        self.blocked: list[str] = state.get("blocked", [])

    def handle(self, alert: Alert) -> None:
        if alert.threshold_code == "free_tier_exceeded" and alert.customer not in self.upgrade_emails:
            self.upgrade_emails.append(str(alert.customer))  # here an e-mail would be sent
        elif alert.threshold_code == "hard_cap" and alert.customer not in self.blocked:
            self.blocked.append(str(alert.customer))
        self.offset = alert.offset
        self.save()

    def save(self) -> None:
        state = {"offset": self.offset, "upgrade_emails": self.upgrade_emails, "blocked": self.blocked}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(self.path)


def send_usage(client: Client) -> None:
    """Send this month's calls. Their keys are the same at every run, so each counts once."""
    month = current_month().start
    client.ingest(
        Event(
            idempotency_key=f"free-tier:{month:%Y-%m}:{customer}:{number}",
            customer=customer,
            metric=METRIC,
            timestamp=month,
        )
        for customer, count in CALLS.items()
        for number in range(count)
    )


def has_crossed_all(client: Client) -> bool:
    """Whether the server has evaluated everything that was sent."""
    flags = [set(client.query_realtime(customer, METRIC).alert_flags) for customer in CALLS]
    return flags == [set(), {"free_tier_exceeded"}, {"free_tier_exceeded", "hard_cap"}]


def follow(client: Client, subscription: Subscription, handler: Handler, seconds: float) -> int:
    """Handle alerts until the log holds no more of them; return how many. A service would simply loop for ever."""
    handled, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        alert = subscription.get(timeout=0.5)
        if alert is not None:
            handler.handle(alert)
            handled += 1
        elif has_crossed_all(client) and not client.alerts.list(since=subscription.offsets(), metrics=METRIC):
            break
    return handled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("METERBOOK_URL", "http://localhost:8000"))
    parser.add_argument("--api-key", default=os.environ.get("METERBOOK_API_KEY"), help="METERBOOK_API_KEY")
    parser.add_argument("--state", type=Path, default=Path("free_tier_alerts.json"), help="where to remember")
    parser.add_argument("--seconds", type=float, default=60, help="give up after so long")
    options = parser.parse_args()

    with Client(options.url, options.api_key) as client:
        with contextlib.suppress(AlreadyExistsError):
            thresholds = [Threshold("free_tier_exceeded", FREE_TIER), Threshold("hard_cap", HARD_CAP)]
            client.metrics.create(METRIC, "count", thresholds=thresholds)

        handler = Handler(options.state)
        with client.alerts.subscribe(metrics=METRIC, since_offset=handler.offset) as subscription:
            send_usage(client)
            handled = follow(client, subscription, handler, options.seconds)

        result = {"handled": handled, "upgrade_emails": handler.upgrade_emails, "blocked": handler.blocked}
        print(json.dumps(result))


if __name__ == "__main__":
    main()
