"""Usage on its way to Stripe: the real `stripe` package, over HTTP, to a server that keeps Stripe's rules.

What is said of these rules, and where from, is in `tests.billing.stripe_fake`.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from queue import Queue

import pytest
import redis
from django.db import connection, transaction
from pytest_django import Settings

from accounts.models import AuditEntry
from billing.clients.failures import CallFailed
from billing.clients.meters import MeterEvent
from billing.clients.stripe import StripeMeters
from billing.domain.reporting import Answer, ReportState
from billing.services import stripe_pace
from billing.services.reporting import (
    NotLeftToPeople,
    NotRejected,
    confirm_report,
    retry_report,
    send_reports,
)
from billing.services.stripe_pace import Pace, TokenBucket
from billing.services.traces import let_go
from metering.models import Horizon
from tests.billing.reporter import Clock, Hooked, Killed, Reporter
from tests.billing.seller import Seller
from tests.billing.stripe_fake import FakeStripe, Fault
from tests.metering.meter import utc

NOV = utc(2026, 11, 1)
PENDING, DELIVERED, UNKNOWN = ReportState.PENDING, ReportState.DELIVERED, ReportState.UNKNOWN
REJECTED, SUPERSEDED, SENDING = ReportState.REJECTED, ReportState.SUPERSEDED, ReportState.SENDING


@pytest.fixture
def clock(now: datetime) -> Clock:
    return Clock(now)


@pytest.fixture
def stripe(clock: Clock) -> Iterator[FakeStripe]:
    with FakeStripe(now=clock.read) as server:
        yield server


@pytest.fixture
def reporter(seller: Seller, stripe: FakeStripe, clock: Clock) -> Reporter:
    return Reporter(seller, stripe, clock)


@pytest.fixture
def acme(reporter: Reporter) -> Reporter:
    """`acme` used 100 on 19 November."""
    reporter.subscribe("acme", start=NOV)
    reporter.use("acme", 100, utc(2026, 11, 19, 10))
    return reporter


def event(**changes: object) -> MeterEvent:
    fields = {
        "event_name": "api_requests",
        "customer_id": "cus_acme",
        "quantity": Decimal(5),
        "event_time": utc(2026, 11, 19),
        "identifier": "one",
        "attempt_key": "one-1",
    }
    return MeterEvent(**{**fields, **changes})  # type: ignore[arg-type]


class TestAdapter:
    """What the real package makes of each of Stripe's answers."""

    @pytest.fixture
    def account(self, stripe: FakeStripe) -> StripeMeters:
        stripe.add_customer("cus_acme")
        stripe.add_meter("api_requests")
        return StripeMeters(api_key=stripe.key, api_base=stripe.url)

    def test_an_event_arrives_as_it_was_meant(self, account: StripeMeters, stripe: FakeStripe) -> None:
        assert account.send(event(quantity=Decimal("-1E+2"))).answer == Answer.ACCEPTED

        [call] = stripe.calls
        assert call.form == {
            "event_name": "api_requests",
            "identifier": "one",
            "payload[stripe_customer_id]": "cus_acme",
            "payload[value]": "-100",
            "timestamp": "1795046400",
        }
        assert call.idempotency_key == "one-1"

    @pytest.mark.parametrize(
        ("fault", "answer"),
        [
            (Fault.DROP_BEFORE, Answer.UNCLEAR),
            (Fault.DROP_AFTER, Answer.UNCLEAR),
            (Fault.ERROR_BEFORE, Answer.UNCLEAR),
            (Fault.ERROR_AFTER, Answer.UNCLEAR),
            (Fault.THROTTLE, Answer.THROTTLED),
        ],
    )
    def test_a_fault_is_named_and_not_repeated(
        self, account: StripeMeters, stripe: FakeStripe, fault: Fault, answer: Answer
    ) -> None:
        stripe.faults = [fault]

        assert account.send(event()).answer == answer
        assert len(stripe.calls) == 1

    def test_a_repeated_identifier_is_told_from_a_refusal(self, account: StripeMeters, stripe: FakeStripe) -> None:
        account.send(event())

        assert account.send(event(attempt_key="one-2")).answer == Answer.DUPLICATE
        assert account.send(event(customer_id="cus_gone", identifier="two", attempt_key="2")).answer == Answer.REFUSED
        assert stripe.total("cus_acme", "api_requests") == Decimal(5)

    @pytest.mark.parametrize(
        "changes",
        [
            {"quantity": Decimal("1234567890123456")},
            {"event_time": utc(2026, 10, 1)},
            {"event_time": utc(2026, 11, 21)},
            {"event_name": "nothing"},
        ],
        ids=["16 digits", "too old", "ahead", "no meter"],
    )
    def test_what_stripe_never_takes_is_refused(
        self, account: StripeMeters, stripe: FakeStripe, changes: dict[str, object]
    ) -> None:
        assert account.send(event(**changes)).answer == Answer.REFUSED
        assert stripe.events == []

    def test_the_key_is_told_to_nobody_but_stripe(self, stripe: FakeStripe, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)

        outcome = StripeMeters(api_key="sk_live_secret", api_base=stripe.url).send(event())

        assert outcome.answer == Answer.UNAUTHORIZED
        assert "sk_live" not in outcome.message
        assert "sk_live_secret" not in caplog.text
        assert [call.authorization for call in stripe.calls] == ["Bearer sk_live_secret"]

    def test_a_server_that_is_away_leaves_it_open(self) -> None:
        assert StripeMeters(api_key="k", api_base="http://127.0.0.1:9").send(event()).answer == Answer.UNCLEAR

    def test_a_summary_is_read_from_the_meter_of_the_name(self, account: StripeMeters) -> None:
        account.send(event(quantity=Decimal("0.1")))
        account.send(event(quantity=Decimal("0.2"), identifier="two", attempt_key="two-1"))
        minute = {"start": utc(2026, 11, 19), "end": utc(2026, 11, 19, 0, 1)}

        total = account.total(event_name="api_requests", customer_id="cus_acme", **minute)

        assert abs(total - Decimal("0.3")) < Decimal("1e-15")
        with pytest.raises(CallFailed):
            account.total(event_name="nothing", customer_id="cus_acme", **minute)


class TestPlanning:
    def test_each_day_of_a_period_is_reported_once_and_corrected_by_differences(self, acme: Reporter) -> None:
        acme.use("acme", 7, utc(2026, 11, 2))

        acme.report()
        acme.report()
        acme.use("acme", 30, utc(2026, 11, 19, 23))
        acme.use("acme", "-2.5", utc(2026, 11, 2, 1))
        acme.report()

        assert [(row.window_start, row.sequence, row.quantity, row.state) for row in acme.rows()] == [
            (utc(2026, 11, 2), 0, Decimal(7), DELIVERED),
            (utc(2026, 11, 19), 0, Decimal(100), DELIVERED),
            (utc(2026, 11, 2), 1, Decimal("-2.5"), DELIVERED),
            (utc(2026, 11, 19), 1, Decimal(30), DELIVERED),
        ]
        assert acme.arrived() == Decimal("134.5")

    def test_an_event_lies_in_the_period_that_its_usage_belongs_to(self, reporter: Reporter) -> None:
        """The last and the first microsecond of two periods, whose edge is 23:00 UTC."""
        reporter.subscribe("acme", start=utc(2026, 9, 30, 22), zone="Europe/Berlin", anchor_day=1)
        edge = utc(2026, 10, 31, 23)
        reporter.use("acme", 1, edge - timedelta(microseconds=1))
        reporter.use("acme", 2, edge)

        reporter.report()

        assert [(row.month, row.quantity) for row in reporter.rows()] == [
            ("2026-10", Decimal(1)),
            ("2026-11", Decimal(2)),
        ]
        [last, first] = [datetime.fromtimestamp(each.timestamp, edge.tzinfo) for each in reporter.stripe.events]
        assert last < edge <= first

    def test_only_what_is_named_at_stripe_is_reported(self, acme: Reporter) -> None:
        acme.seller.subscribe("unnamed", "basic", start=NOV)
        acme.use("unnamed", 5, utc(2026, 11, 19))
        acme.seller.define("other", "count", event_type="request")

        acme.report()

        assert [event.customer for event in acme.stripe.events] == ["cus_acme"]

    def test_usage_of_a_customer_with_two_subscriptions_is_reported_once(self, reporter: Reporter) -> None:
        old = reporter.subscribe("acme", start=NOV)
        reporter.subscribe("acme", start=utc(2026, 11, 3), idempotency_key="another")
        reporter.seller.cancel(old, "now", at=utc(2026, 11, 10, 12))
        reporter.use("acme", 1, utc(2026, 11, 5))
        reporter.use("acme", 2, utc(2026, 11, 10, 11))
        reporter.use("acme", 4, utc(2026, 11, 10, 12))
        reporter.use("acme", 8, utc(2026, 11, 12))

        reporter.report()

        rows = sorted((row.window_start, row.subscription_id == old.pk, row.quantity) for row in reporter.rows())
        assert rows == [
            (utc(2026, 11, 5), True, Decimal(1)),
            (utc(2026, 11, 10), True, Decimal(2)),
            (utc(2026, 11, 10, 12), False, Decimal(4)),
            (utc(2026, 11, 12), False, Decimal(8)),
        ]
        assert reporter.arrived() == Decimal(15)

    def test_usage_after_a_cancellation_that_was_reported_already_is_taken_back(self, acme: Reporter) -> None:
        [subscription] = {row.subscription for row in acme.plan().planned and acme.rows()}
        acme.send()

        acme.seller.cancel(subscription, "now", at=utc(2026, 11, 18))
        acme.report()

        assert [row.quantity for row in acme.rows()] == [Decimal(100), Decimal(-100)]
        assert acme.arrived() == Decimal(0)

    def test_a_trial_that_ended_long_ago_in_the_month_of_the_next_period_stays(self, reporter: Reporter) -> None:
        """Both begin in October; of the trial nothing more can be reported."""
        reporter.subscribe("acme", start=utc(2026, 10, 1), trial_days=7)
        reporter.use("acme", 3, utc(2026, 10, 2))
        reporter.use("acme", 4, utc(2026, 10, 20))
        reporter.clock.now = utc(2026, 10, 25)
        reporter.report()
        assert [(row.month, row.quantity) for row in reporter.rows()] == [
            ("2026-10", Decimal(3)),
            ("2026-10", Decimal(4)),
        ]

        reporter.clock.now = utc(2026, 11, 20)

        assert reporter.plan().planned == []

    def test_a_period_that_is_no_longer_kept_does_not_hold_back_the_current_one(self, reporter: Reporter) -> None:
        """In Kolkata days begin at half past; of half hours only raw events tell, and those are let go."""
        reporter.subscribe("acme", start=utc(2026, 9, 30, 18, 30), zone="Asia/Kolkata", anchor_day=1)
        reporter.use("acme", 3, utc(2026, 10, 30))
        reporter.use("acme", 4, utc(2026, 11, 19))
        reporter.seller.roll_up()
        horizon = Horizon.objects.for_organization(reporter.organization)
        horizon.update(minutes_from=utc(2026, 10, 10), raw_from=utc(2026, 10, 10))

        run = reporter.plan()

        assert [(failure.month, failure.error.code) for failure in run.failures] == [("2026-10", "range_not_kept")]
        assert [(report.month, report.part.quantity) for report in run.planned] == [("2026-11", Decimal(4))]

    def test_a_plan_that_runs_out_of_time_goes_on_where_it_stopped(self, reporter: Reporter) -> None:
        for customer in ("first", "second", "third"):
            reporter.subscribe(customer, start=NOV)
            reporter.use(customer, 1, utc(2026, 11, 19))
        hours = iter(range(9))

        begun = reporter.plan(until=NOV + timedelta(hours=2), clock=lambda: NOV + timedelta(hours=next(hours)))
        rest = reporter.plan(from_customer_id=begun.resume_from, is_dry_run=True)

        assert [planned.target.stripe_customer_id for planned in begun.planned] == ["cus_first", "cus_second"]
        assert begun.resume_from == reporter.seller.customer_id("third")
        assert ([planned.target.stripe_customer_id for planned in rest.planned], rest.resume_from) == (
            ["cus_third"],
            None,
        )

    def test_a_dry_run_writes_and_sends_nothing(self, acme: Reporter) -> None:
        [planned] = acme.plan(is_dry_run=True).planned

        assert (planned.month, planned.part.quantity, planned.window.start) == (
            "2026-11",
            Decimal(100),
            utc(2026, 11, 19),
        )
        assert acme.rows() == []
        assert acme.stripe.calls == []

    def test_what_is_too_old_for_stripe_is_refused_here_and_visible(self, reporter: Reporter) -> None:
        reporter.subscribe("acme", start=utc(2025, 1, 1))
        reporter.use("acme", 9, utc(2025, 1, 7))

        assert reporter.plan().planned == []
        reporter.plan(["2025-01"])
        assert reporter.send().answers == {"too_old": 1}

        [row] = reporter.rows()
        assert (row.state, row.attempts) == (REJECTED, 0)
        assert "35 days" in row.last_error
        assert reporter.stripe.calls == []


class TestSending:
    @pytest.mark.parametrize(
        "fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_BEFORE, Fault.ERROR_AFTER, Fault.THROTTLE]
    )
    def test_usage_is_counted_once_whatever_happens_to_the_first_call(self, acme: Reporter, fault: Fault) -> None:
        acme.stripe.faults = [fault]

        acme.report()
        expected = UNKNOWN if fault != Fault.THROTTLE else PENDING
        assert acme.states() == [expected]
        acme.come_to_rest()

        assert acme.states() == [DELIVERED]
        assert acme.arrived() == Decimal(100)
        assert len({call.form["identifier"] for call in acme.stripe.calls}) == 1

    def test_a_stored_500_does_not_keep_a_report_back(self, acme: Reporter) -> None:
        """Under one idempotency key Stripe would repeat it for a day, longer than this may take."""
        acme.stripe.faults = [Fault.ERROR_AFTER]

        acme.report()
        acme.clock.now += timedelta(minutes=5)
        acme.report()

        assert acme.states() == [DELIVERED]
        assert len({call.idempotency_key for call in acme.stripe.calls}) == 2

    @pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER])
    def test_after_a_day_the_summary_is_asked_before_anything_is_sent_again(self, acme: Reporter, fault: Fault) -> None:
        acme.stripe.faults = [fault]
        acme.stripe.summary_lag = timedelta(minutes=20)
        acme.report()

        acme.clock.now += timedelta(hours=26)
        acme.come_to_rest()

        assert acme.arrived() == Decimal(100)
        assert acme.states() == ([DELIVERED] if fault == Fault.DROP_AFTER else [SUPERSEDED, DELIVERED])
        assert acme.stripe.calls[1].path == "/v1/billing/meters"
        assert "event_summaries" in acme.stripe.calls[2].path

    def test_a_summary_that_fits_nothing_leaves_the_report_to_people(self, acme: Reporter) -> None:
        acme.stripe.faults = [Fault.DROP_AFTER]
        acme.report()
        # Somebody else reports to the same customer and minute.
        acme.sink.send(event(quantity=Decimal(1), identifier="foreign", attempt_key="foreign"))

        acme.clock.now += timedelta(hours=26)
        acme.report()

        [row] = acme.rows()
        assert row.state == UNKNOWN
        assert "counts 101.0" in row.last_error
        assert acme.arrived() == Decimal(101)
        # A day later it is theirs to say; before that it may still settle by itself.
        for decide, refusal in ((confirm_report, NotLeftToPeople), (retry_report, NotRejected)):
            with pytest.raises(refusal):
                decide(report=row, actor="test", now=row.first_sent_at + timedelta(hours=47))

    @pytest.mark.parametrize("has_arrived", [True, False])
    def test_people_say_what_became_of_a_report_that_nobody_knows_about(
        self, acme: Reporter, has_arrived: bool
    ) -> None:
        acme.stripe.faults = [Fault.DROP_AFTER if has_arrived else Fault.DROP_BEFORE]
        acme.report()
        acme.sink.send(event(quantity=Decimal(1), identifier="foreign", attempt_key="foreign"))
        acme.clock.now += timedelta(hours=48)
        acme.report()

        decide = confirm_report if has_arrived else retry_report
        said = decide(report=acme.rows()[0], actor="test", now=acme.clock.now)
        acme.report()

        assert acme.states() == ([DELIVERED] if has_arrived else [SUPERSEDED, DELIVERED])
        assert acme.arrived() == Decimal(101)
        entry = AuditEntry.objects.for_organization(acme.organization).latest("id")
        assert entry.action == ("usage_report.confirmed" if has_arrived else "usage_report.retried")
        assert (entry.actor, entry.target) == ("test", acme.rows()[0].identifier)
        assert said.pk == acme.rows()[-1].pk
        with pytest.raises(NotLeftToPeople):
            confirm_report(report=said, actor="test", now=acme.clock.now)

        # What Stripe said may name a customer, and goes with one who is erased.
        assert entry.details
        let_go(organization=acme.organization, customer=said.subscription.customer, by="x", now=acme.clock.now)
        entry.refresh_from_db()
        assert entry.details == {}

    def test_one_bad_customer_does_not_stop_the_rest(self, reporter: Reporter) -> None:
        for customer in ("first", "gone", "last"):
            reporter.subscribe(customer, start=NOV, is_at_stripe=customer != "gone")
            reporter.use(customer, 3, utc(2026, 11, 19))

        run = reporter.report()

        assert reporter.states() == [DELIVERED, REJECTED, DELIVERED]
        assert run.answers == {Answer.ACCEPTED: 2, Answer.REFUSED: 1}
        assert "No such customer" in reporter.rows()[1].last_error

    def test_a_refused_report_is_not_planned_anew_and_can_be_tried_again(self, reporter: Reporter) -> None:
        reporter.subscribe("acme", start=NOV, is_at_stripe=False)
        reporter.use("acme", 3, utc(2026, 11, 19))
        reporter.report()
        reporter.report()
        [row] = reporter.rows()

        reporter.stripe.add_customer("cus_acme")
        retry_report(report=row, actor="test", now=reporter.clock.now)
        reporter.use("acme", 4, utc(2026, 11, 19))
        reporter.report()

        assert [(row.sequence, row.quantity, row.state) for row in reporter.rows()] == [
            (0, Decimal(3), SUPERSEDED),
            (1, Decimal(3), DELIVERED),
            (2, Decimal(4), DELIVERED),
        ]
        assert reporter.arrived() == Decimal(7)
        with pytest.raises(NotRejected):
            retry_report(report=row, actor="test", now=reporter.clock.now)

    def test_a_key_that_is_refused_ends_the_run_and_loses_nothing(self, acme: Reporter) -> None:
        acme.use("acme", 5, utc(2026, 11, 18))

        run = acme.report(StripeMeters(api_key="sk_wrong", api_base=acme.stripe.url))

        assert (len(acme.stripe.calls), acme.states()) == (1, [PENDING, PENDING])
        assert "key" in run.stopped_by
        acme.clock.now += timedelta(hours=1)
        acme.report()
        assert acme.arrived() == Decimal(105)

    def test_a_stripe_that_is_away_ends_the_run_after_three_calls(self, acme: Reporter) -> None:
        for day in range(2, 8):
            acme.use("acme", 1, utc(2026, 11, day))
        acme.stripe.faults = [Fault.DROP_BEFORE] * 3

        acme.report()

        assert len(acme.stripe.calls) == 3
        acme.come_to_rest()
        assert acme.arrived() == Decimal(106)

    def test_a_run_that_is_throttled_waits_longer_each_time(self, acme: Reporter) -> None:
        for day in range(2, 8):
            acme.use("acme", 1, utc(2026, 11, day))
        acme.stripe.faults = [Fault.THROTTLE] * 3
        began = acme.clock.now

        acme.report()

        # 1 + 2 + 4 seconds, of which chance (here: one half) takes a quarter.
        assert acme.clock.now - began >= timedelta(seconds=5.25)
        acme.come_to_rest()
        assert acme.arrived() == Decimal(106)

    def test_calls_keep_below_the_rate(self, acme: Reporter, settings: Settings) -> None:
        settings.STRIPE_CALLS_PER_SECOND = 2
        for day in range(2, 8):
            acme.use("acme", 1, utc(2026, 11, day))
        began = acme.clock.now

        acme.report()

        assert len(acme.stripe.calls) == 7
        assert acme.clock.now - began == timedelta(seconds=3)

    @pytest.mark.parametrize("is_redis_away", [False, True])
    def test_who_calls_at_the_same_time_shares_the_rate(
        self, clock: Clock, settings: Settings, monkeypatch: pytest.MonkeyPatch, is_redis_away: bool
    ) -> None:
        """Without Redis each run has a rate of its own, and goes on."""
        settings.STRIPE_CALLS_PER_SECOND = 4
        if is_redis_away:
            away = redis.Redis(port=1, retry=None).register_script("return 0")
            monkeypatch.setattr(stripe_pace, "_script", lambda: away)
        waits: list[float] = []
        buckets = [TokenBucket(pace=replace(clock.pace, wait=waits.append)) for _ in range(3)]

        for bucket in buckets * 2:
            bucket.take()

        assert waits == ([0.25] * 3 if is_redis_away else [0.25, 0.5, 0.75, 1.0, 1.25])
        TokenBucket(pace=replace(clock.pace, now=lambda: clock.now - timedelta(days=1), wait=waits.append)).take()
        assert len(waits) == (3 if is_redis_away else 5), "a clock that is wrong keeps nobody waiting"

    def test_a_quantity_with_many_digits_arrives_exactly(self, acme: Reporter) -> None:
        acme.use("acme", Decimal("12345678901234567890.12345678"), utc(2026, 11, 5))

        acme.report()

        assert set(acme.states()) == {DELIVERED}
        assert acme.arrived() == Decimal("12345678901234567990.12345678")


# --- killed anywhere ------------------------------------------------------------------------------------------


def kill() -> None:
    raise Killed


class TestCrashes:
    """Where a process may be killed: the rows tell what may have happened, and nothing is lost or counted twice."""

    def test_killed_between_intent_and_sending(self, acme: Reporter) -> None:
        with pytest.raises(Killed):
            acme.report(Hooked(acme.sink, before=kill))

        assert (acme.states(), acme.arrived()) == ([SENDING], Decimal(0))
        assert acme.send().answers == {}, "the lease is not over"
        acme.come_to_rest()
        assert (acme.states(), acme.arrived()) == ([DELIVERED], Decimal(100))

    def test_killed_between_sending_and_the_answer(self, acme: Reporter) -> None:
        acme.stripe.faults = [Fault.DROP_AFTER]
        with pytest.raises(Killed):
            acme.report(Hooked(acme.sink, after=kill))

        assert (acme.states(), acme.arrived()) == ([SENDING], Decimal(100))
        acme.come_to_rest()
        assert (acme.states(), acme.arrived()) == ([DELIVERED], Decimal(100))

    def test_killed_between_the_answer_and_marking(self, acme: Reporter) -> None:
        with pytest.raises(Killed):
            acme.report(Hooked(acme.sink, after=kill))

        assert (acme.states(), acme.arrived()) == ([SENDING], Decimal(100))
        acme.come_to_rest()
        assert (acme.states(), acme.arrived()) == ([DELIVERED], Decimal(100))

    def test_killed_and_found_only_after_stripe_forgot_the_identifier(self, acme: Reporter) -> None:
        with pytest.raises(Killed):
            acme.report(Hooked(acme.sink, after=kill))

        acme.clock.now += timedelta(hours=30)
        acme.come_to_rest()

        assert (acme.states(), acme.arrived()) == ([DELIVERED], Decimal(100))

    def test_one_that_stood_still_past_its_lease_sends_nothing(self, acme: Reporter) -> None:
        """A machine slept between taking a row and sending it: others may have sent it, and Stripe forgotten it."""
        acme.use("acme", 1, utc(2026, 11, 18))
        acme.plan()

        def sleep(seconds: float) -> None:
            acme.clock.now += timedelta(hours=25)

        pace = Pace(now=acme.clock.read, wait=sleep)
        send_reports(organization=acme.organization, sink=acme.sink, pace=pace)

        assert (len(acme.stripe.calls), sorted(acme.states())) == (1, [DELIVERED, UNKNOWN])
        acme.come_to_rest()
        assert acme.arrived() == Decimal(101)


@pytest.mark.django_db(transaction=True)
class TestKilledProcesses:
    """The same with a process of its own and a real SIGKILL."""

    def die(self, reporter: Reporter, work: Callable[[Hooked], object]) -> None:
        """Have a child do the work, until something kills it."""
        born: Queue[int] = Queue()
        reporter.stripe.before_answer = lambda call: os.kill(born.get(timeout=10), signal.SIGKILL)
        connection.close()
        child = os.fork()
        if child == 0:
            try:
                work(Hooked(reporter.sink))
            finally:
                os._exit(1)
        born.put(child)
        _, status = os.waitpid(child, 0)
        reporter.stripe.before_answer = lambda call: None
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL

    @pytest.mark.parametrize(
        ("place", "arrived"),
        [("before sending", 0), ("before the answer", 100)],
    )
    def test_usage_is_counted_once(self, acme: Reporter, place: str, arrived: int) -> None:
        def work(sink: Hooked) -> None:
            if place == "before sending":
                sink.before = lambda: os.kill(os.getpid(), signal.SIGKILL)
            acme.report(sink)

        self.die(acme, work)

        assert (acme.states(), acme.arrived()) == ([SENDING], Decimal(arrived))
        acme.come_to_rest()
        assert (acme.states(), acme.arrived()) == ([DELIVERED], Decimal(100))


@pytest.mark.django_db(transaction=True)
class TestTwoWorkers:
    def test_two_that_plan_and_send_at_once_say_everything_once(self, acme: Reporter) -> None:
        for day in range(2, 12):
            acme.use("acme", 1, utc(2026, 11, day))
        begin = threading.Barrier(2)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                begin.wait(10)
                acme.report()
            except BaseException as error:
                failures.append(error)
            finally:
                connection.close()

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)

        assert failures == []
        assert acme.states() == [DELIVERED] * 11
        assert acme.arrived() == Decimal(110)
        assert len(acme.stripe.calls) == 11, "nobody sent what another had taken"

    def test_who_plans_beside_another_waits_and_finds_nothing_left(self, acme: Reporter) -> None:
        failures: list[BaseException] = []
        planned: list[int] = []

        def work() -> None:
            try:
                planned.append(len(acme.plan().planned))
            except BaseException as error:
                failures.append(error)
            finally:
                connection.close()

        worker = threading.Thread(target=work)
        with transaction.atomic():
            acme.plan()
            worker.start()
            worker.join(0.5)
            assert (worker.is_alive(), planned) == (True, [])
        worker.join(60)

        assert (failures, planned, len(acme.rows())) == ([], [0], 1)
