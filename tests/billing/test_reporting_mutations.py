"""The checks of reporting, checked: each of the classic mistakes, made on purpose, must break the invariant.

The invariant is one function; the real code passes it here, and every broken variant fails it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import stripe as stripe_package

from billing.clients.meters import MeterEvent, MeterSink
from billing.clients.stripe import StripeMeters
from billing.domain import reporting as rules
from billing.domain.reporting import Answer, Outcome
from billing.services import reporting as service
from common.numbers import exact_text
from tests.billing.reporter import Clock, Hooked, Killed, Reporter
from tests.billing.seller import Seller
from tests.billing.stripe_fake import FakeStripe, Fault
from tests.metering.meter import utc

NOV = utc(2026, 11, 1)


@pytest.fixture
def clock(now: datetime) -> Clock:
    return Clock(now)


@pytest.fixture
def reporter(seller: Seller, clock: Clock) -> Iterator[Reporter]:
    with FakeStripe(now=clock.read) as server:
        reporter = Reporter(seller, server, clock)
        reporter.subscribe("acme", start=utc(2026, 10, 1))
        reporter.subscribe("gone", start=NOV, is_at_stripe=False)
        yield reporter


def kill() -> None:
    raise Killed


def check(reporter: Reporter, sink: MeterSink) -> None:
    """Report a little through every misfortune, and require that Stripe has what the ledger has, period by period."""
    reporter.use("gone", 9, utc(2026, 11, 1))
    reporter.use("acme", 1, utc(2026, 10, 31, 12))
    for day, fault in enumerate((None, Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_AFTER, Fault.THROTTLE), 2):
        reporter.use("acme", 10, utc(2026, 11, day))
        reporter.stripe.faults = [fault]
        reporter.report(sink)
        reporter.clock.now += timedelta(minutes=10)
    reporter.use("acme", 10, utc(2026, 11, 10))
    with pytest.raises(Killed):
        reporter.report(Hooked(sink, before=kill))
    reporter.use("acme", -3, utc(2026, 11, 2))
    reporter.come_to_rest(sink)

    events = [event for event in reporter.stripe.events if event.customer == "cus_acme"]
    of_october = [event.value for event in events if datetime.fromtimestamp(event.timestamp, UTC) < NOV]
    assert sum(of_october, Decimal(0)) == Decimal(1)
    assert reporter.arrived() == Decimal(58)
    refused = [row.state for row in reporter.rows() if row.stripe_customer_id == "cus_gone"]
    assert refused == [rules.ReportState.REJECTED]


def test_the_real_code_keeps_the_invariant(reporter: Reporter) -> None:
    check(reporter, reporter.sink)


class Without:
    """The adapter, which forgets one parameter."""

    def __init__(self, parameter: str, reporter: Reporter) -> None:
        self.parameter, self.sink = parameter, reporter.sink
        addresses: Any = {"api": reporter.stripe.url}
        self.client = stripe_package.StripeClient(reporter.stripe.key, base_addresses=addresses, max_network_retries=0)

    def send(self, event: MeterEvent) -> Outcome:
        parameters: Any = {
            "event_name": event.event_name,
            "payload": {"stripe_customer_id": event.customer_id, "value": exact_text(event.quantity)},
            "identifier": event.identifier,
            "timestamp": int(event.event_time.timestamp()),
        }
        del parameters[self.parameter]
        try:
            self.client.v1.billing.meter_events.create(parameters, {"idempotency_key": event.attempt_key})
        except stripe_package.RateLimitError:
            return Outcome(Answer.THROTTLED)
        except stripe_package.InvalidRequestError as error:
            is_known = "already exists" in str(error)
            return Outcome(Answer.DUPLICATE if is_known else Answer.REFUSED)
        except stripe_package.StripeError:
            return Outcome(Answer.UNCLEAR)
        return Outcome(Answer.ACCEPTED)

    def total(self, **selection: Any) -> Decimal:
        return self.sink.total(**selection)


class Answering:
    """The adapter, whose answers are read in another way."""

    def __init__(self, sink: StripeMeters, read: Callable[[Answer], Answer]) -> None:
        self.sink, self.read = sink, read

    def send(self, event: MeterEvent) -> Outcome:
        outcome = self.sink.send(event)
        return replace(outcome, answer=self.read(outcome.answer))

    def total(self, **selection: Any) -> Decimal:
        return self.sink.total(**selection)


@pytest.mark.parametrize("parameter", ["identifier", "timestamp"])
def test_forgetting_a_parameter_is_noticed(reporter: Reporter, parameter: str) -> None:
    with pytest.raises(AssertionError):
        check(reporter, Without(parameter, reporter))


@pytest.mark.parametrize(
    ("taken_for", "answer"),
    [
        (Answer.ACCEPTED, Answer.REFUSED),
        (Answer.ACCEPTED, Answer.UNCLEAR),
        (Answer.ACCEPTED, Answer.THROTTLED),
        (Answer.REFUSED, Answer.UNCLEAR),
    ],
    ids=["a swallowed 400", "a lost answer is a yes", "a 429 is a yes", "a lost answer is a no"],
)
def test_misreading_an_answer_is_noticed(reporter: Reporter, taken_for: Answer, answer: Answer) -> None:
    sink = Answering(reporter.sink, lambda given: taken_for if given == answer else given)

    with pytest.raises(AssertionError):
        check(reporter, sink)


def test_taking_a_duplicate_for_a_refusal_is_noticed(reporter: Reporter) -> None:
    sink = Answering(reporter.sink, lambda given: Answer.REFUSED if given == Answer.DUPLICATE else given)
    reporter.use("acme", 10, utc(2026, 11, 2))
    reporter.stripe.faults = [Fault.DROP_AFTER]
    reporter.report(sink)
    reporter.clock.now += timedelta(hours=1)
    reporter.report(sink)

    assert reporter.states() == [rules.ReportState.UNKNOWN], "and not delivered, within the day"


def test_marking_before_sending_is_noticed(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    real = rules.claim

    def mark(progress: rules.Progress, *, now: datetime) -> rules.Progress:
        return rules.settle(real(progress, now=now), Outcome(Answer.ACCEPTED), now=now, jitter=0)

    monkeypatch.setattr(service, "claim", mark)
    monkeypatch.setattr(service, "settle", lambda progress, outcome, *, now, jitter: progress)

    with pytest.raises(AssertionError):
        check(reporter, reporter.sink)


def test_a_new_identifier_for_each_attempt_is_noticed(reporter: Reporter) -> None:
    class Renaming(Answering):
        def send(self, event: MeterEvent) -> Outcome:
            return self.sink.send(replace(event, identifier=event.attempt_key))

    with pytest.raises(AssertionError):
        check(reporter, Renaming(reporter.sink, lambda answer: answer))


def test_remembering_identifiers_for_longer_than_stripe_does_is_noticed(
    reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "RESEND_WITHIN", timedelta(days=3))
    reporter.use("acme", 10, utc(2026, 11, 2))
    reporter.stripe.faults = [Fault.DROP_AFTER]
    reporter.report()
    reporter.clock.now += timedelta(hours=26)
    reporter.come_to_rest()

    assert reporter.arrived() == Decimal(20), "counted twice: what the summaries are asked for prevents this"
