"""The rules of reporting: windows, corrections, digits, and that every story ends with the ledger's own total."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Context, Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from billing.domain.periods import BillingPeriod, Cycle, period_at
from billing.domain.reporting import (
    RESEND_WITHIN,
    SUMMARY_LAG,
    UNSETTLED,
    Answer,
    Entry,
    Finding,
    MinuteTotals,
    Outcome,
    Progress,
    ReportState,
    Step,
    claim,
    identify,
    judge,
    list_windows,
    next_step,
    own_spans,
    plan_parts,
    recent_periods,
    resolve,
    settle,
    split_digits,
    sum_into_windows,
)
from metering.domain import Span
from tests.metering.meter import utc

_WIDE = Context(prec=100)
NOW = utc(2026, 11, 20, 12)
UTC_CYCLE = Cycle(utc(2026, 1, 1), 1, ZoneInfo("UTC"))


def written(*numbers: str) -> list[Decimal]:
    return [Decimal(number) for number in numbers]


class TestWindows:
    def test_a_window_is_a_utc_day_cut_at_the_edges_of_the_period(self) -> None:
        berlin = period_at(Cycle(utc(2026, 10, 31, 23), 1, ZoneInfo("Europe/Berlin")), utc(2026, 11, 5))
        assert berlin is not None

        windows = list_windows(berlin, Span(berlin.start, berlin.end))

        assert (windows[0].start, windows[0].end) == (utc(2026, 10, 31, 23), utc(2026, 11, 1))
        assert (windows[1].start, windows[1].end) == (utc(2026, 11, 1), utc(2026, 11, 2))
        assert (windows[-1].start, windows[-1].end) == (utc(2026, 11, 30), utc(2026, 11, 30, 23))
        assert len(windows) == 31

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (utc(2026, 11, 3), utc(2026, 11, 4), utc(2026, 11, 3)),
            (utc(2026, 11, 3, 7, 0, 0, 1), utc(2026, 11, 4), utc(2026, 11, 3, 7, 0, 1)),
            # A period that was over within one second has no whole one.
            (utc(2026, 11, 3, 7, 0, 0, 100), utc(2026, 11, 3, 7, 0, 0, 900), utc(2026, 11, 3, 7)),
        ],
        ids=["on the second", "after it", "between two"],
    )
    def test_the_time_of_an_event_is_the_first_second_of_its_window(
        self, start: datetime, end: datetime, expected: datetime
    ) -> None:
        [window] = list_windows(BillingPeriod(start, end), Span(start, end))

        assert window.event_time == expected

    def test_less_than_a_second_before_midnight_joins_the_next_day(self) -> None:
        start, end = utc(2026, 11, 3, 23, 59, 59, 500_000), utc(2026, 11, 6)
        windows = list_windows(BillingPeriod(start, end), Span(start, end))

        daily = [(utc(2026, 11, day), Decimal(10**day)) for day in (3, 4, 5)]

        assert [(window.start, window.end) for window in windows] == [
            (start, utc(2026, 11, 5)),
            (utc(2026, 11, 5), utc(2026, 11, 6)),
        ]
        assert windows[0].event_time == utc(2026, 11, 4)
        assert [total for _, total in sum_into_windows(windows, daily)] == [Decimal(11_000), Decimal(100_000)]

    @pytest.mark.parametrize(
        ("taken", "expected"),
        [
            ([], [(1, 30)]),
            ([(1, 30)], []),
            ([(5, 10)], [(1, 5), (10, 30)]),
            ([(8, 12), (5, 10)], [(1, 5), (12, 30)]),
            ([(12, 99)], [(1, 12)]),
        ],
        ids=["nothing", "all", "a piece", "two that overlap", "from then on"],
    )
    def test_what_an_older_subscription_reports_is_left_out(
        self, taken: list[tuple[int, int]], expected: list[tuple[int, int]]
    ) -> None:
        def day(number: int) -> datetime:
            return utc(2026, 11, 1) + timedelta(days=number - 1)

        spans = own_spans(BillingPeriod(day(1), day(30)), [Span(day(start), day(end)) for start, end in taken])

        assert list(spans) == [Span(day(start), day(end)) for start, end in expected]

    def test_recent_are_the_periods_of_which_stripe_still_takes_usage(self) -> None:
        # 35 days before 20 November is 16 October.
        assert [period.start.month for period in recent_periods(UTC_CYCLE, now=NOW)] == [10, 11]
        ended = Cycle(utc(2026, 1, 1), 1, ZoneInfo("UTC"), ends_at=utc(2026, 10, 10))
        assert recent_periods(ended, now=NOW) == []
        still_taken = Cycle(utc(2026, 1, 1), 1, ZoneInfo("UTC"), ends_at=utc(2026, 10, 30))
        assert [period.start.month for period in recent_periods(still_taken, now=NOW)] == [10]


class TestPlan:
    def test_usage_is_said_once_and_then_corrected_by_what_it_changed(self) -> None:
        [first] = plan_parts([], Decimal(100))
        said = [Entry(first.sequence, first.quantity, ReportState.DELIVERED)]

        assert (first.sequence, first.quantity) == (0, Decimal(100))
        assert plan_parts(said, Decimal(100)) == []
        assert [(part.sequence, part.quantity) for part in plan_parts(said, Decimal(130))] == [(1, Decimal(30))]
        assert [(part.sequence, part.quantity) for part in plan_parts(said, Decimal(60))] == [(1, Decimal(-40))]

    @pytest.mark.parametrize("state", sorted(set(ReportState) - {ReportState.SUPERSEDED}))
    def test_a_row_on_its_way_counts_as_said(self, state: ReportState) -> None:
        assert plan_parts([Entry(0, Decimal(5), state)], Decimal(5)) == []

    def test_a_superseded_row_does_not(self) -> None:
        [again] = plan_parts([Entry(0, Decimal(5), ReportState.SUPERSEDED)], Decimal(5))

        assert (again.sequence, again.quantity) == (1, Decimal(5))

    @pytest.mark.parametrize(
        ("quantity", "parts"),
        [
            ("0", []),
            ("0.000", []),
            ("123456789012345", ["123456789012345"]),
            ("1234567890123456", ["1234567890123450", "6"]),
            ("-1234567890.1234567", ["-1234567890.12345", "-0.0000067"]),
            ("1000000000000000000000", ["1000000000000000000000"]),
            ("1000000000000000000001", ["1000000000000000000000", "1"]),
        ],
    )
    def test_a_quantity_with_too_many_digits_is_said_in_parts(self, quantity: str, parts: list[str]) -> None:
        assert split_digits(Decimal(quantity)) == written(*parts)

    @given(st.decimals(allow_nan=False, allow_infinity=False, places=20, min_value=-(10**27), max_value=10**27))
    def test_the_parts_add_up_exactly(self, quantity: Decimal) -> None:
        parts = split_digits(quantity)

        # Whole numbers of the last place: Python's own sum would round at 28 digits.
        assert sum(int(part.scaleb(20, context=_WIDE)) for part in parts) == int(quantity.scaleb(20, context=_WIDE))
        assert all(len(str(abs(part)).replace(".", "").strip("0").split("E")[0]) <= 15 for part in parts)

    def test_every_row_has_an_identifier_of_its_own(self) -> None:
        row = {
            "prefix": "meterbook",
            "organization_id": 1,
            "subscription_id": 2,
            "metric_id": 3,
            "window_start": utc(2026, 11, 1),
            "sequence": 0,
        }
        other = {
            "prefix": "staging",
            "organization_id": 2,
            "subscription_id": 3,
            "metric_id": 4,
            "window_start": utc(2026, 11, 1, 0, 0, 0, 1),
            "sequence": 1,
        }
        changed = [identify(**{**row, name: value}) for name, value in other.items()]  # type: ignore[arg-type]

        assert identify(**row) == identify(**row) == "meterbook-1-2-3-20261101T000000.000000-0"  # type: ignore[arg-type]
        assert len({identify(**row), *changed}) == 7  # type: ignore[arg-type]


class TestAnswers:
    def test_what_may_have_arrived_is_never_taken_for_refused(self) -> None:
        lost = settle(claim(Progress(), now=NOW), Outcome(Answer.UNCLEAR), now=NOW, jitter=0)
        later = NOW + timedelta(hours=1)

        answered = {
            answer: settle(claim(lost, now=later), Outcome(answer), now=later, jitter=0).state for answer in Answer
        }

        assert answered == {
            Answer.ACCEPTED: ReportState.DELIVERED,
            Answer.DUPLICATE: ReportState.DELIVERED,
            Answer.REFUSED: ReportState.UNKNOWN,
            Answer.THROTTLED: ReportState.UNKNOWN,
            Answer.UNAUTHORIZED: ReportState.UNKNOWN,
            Answer.UNCLEAR: ReportState.UNKNOWN,
        }

    def test_an_identifier_is_used_again_only_while_stripe_remembers_it(self) -> None:
        lost = settle(claim(Progress(), now=NOW), Outcome(Answer.UNCLEAR), now=NOW, jitter=0)
        microsecond = timedelta(microseconds=1)

        assert timedelta(hours=24) > RESEND_WITHIN
        assert next_step(lost, event_time=NOW, now=NOW + RESEND_WITHIN - microsecond) == Step.SEND
        assert next_step(lost, event_time=NOW, now=NOW + RESEND_WITHIN) == Step.ASK
        # Being throttled in between does not begin the time anew.
        throttled = settle(claim(lost, now=NOW + timedelta(hours=20)), Outcome(Answer.THROTTLED), now=NOW, jitter=0)
        assert next_step(throttled, event_time=NOW, now=NOW + RESEND_WITHIN) == Step.ASK

    def test_what_was_throttled_at_first_was_never_sent(self) -> None:
        throttled = settle(claim(Progress(), now=NOW), Outcome(Answer.THROTTLED), now=NOW, jitter=0)

        assert (throttled.state, throttled.first_sent_at) == (ReportState.PENDING, None)
        assert next_step(throttled, event_time=NOW, now=NOW + timedelta(days=2)) == Step.SEND

    @pytest.mark.parametrize(("days", "step"), [(34, Step.SEND), (35, Step.GIVE_UP)])
    def test_usage_older_than_stripe_takes_is_given_up(self, days: int, step: Step) -> None:
        assert next_step(Progress(), event_time=NOW - timedelta(days=days), now=NOW) == step

    @pytest.mark.parametrize(
        ("delivered", "unknown", "summary", "finding"),
        [
            ("0", ["5"], "5", Finding.ARRIVED),
            ("0", ["5"], "0", Finding.ABSENT),
            ("10", ["-3"], "7", Finding.ARRIVED),
            ("10", ["-3"], "10", Finding.ABSENT),
            ("10", ["5"], "12", Finding.INCONCLUSIVE),
            ("0", ["5", "-3"], "5", Finding.ARRIVED),
            ("0", ["5", "-3"], "-3", Finding.ABSENT),
            # Both or neither: the same, so nothing is said again.
            ("1", ["5", "-5"], "1", Finding.ARRIVED),
            ("0.1", ["0.2"], "0.30000000000000004", Finding.ARRIVED),
            # Lost in the precision of a float.
            ("123456789012345", ["0.00001"], "123456789012345", Finding.INCONCLUSIVE),
        ],
    )
    def test_a_summary_tells_whether_a_row_arrived(
        self, delivered: str, unknown: list[str], summary: str, finding: Finding
    ) -> None:
        assert judge(MinuteTotals(Decimal(delivered), tuple(written(*unknown))), Decimal(summary)) == finding


# --- any story ends well --------------------------------------------------------------------------------------

FATES = [
    "accepted",
    "lost before",
    "lost after",
    "throttled",
    "killed before sending",
    "killed before the answer",
    "killed before marking",
]
# What happens to the first row that is due.
STEPS = st.one_of(
    st.tuples(st.just("use"), st.integers(0, 2), st.integers(-5, 5)),
    st.tuples(st.just("plan")),
    st.tuples(st.just("send"), st.sampled_from(FATES)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.5, 9, 23, 26, 50])),
)


@dataclass
class Row:
    window: int
    sequence: int
    quantity: Decimal
    progress: Progress

    @property
    def identifier(self) -> str:
        return f"{self.window}-{self.sequence}"


@dataclass
class World:
    """The outbox and Stripe as the simplest thing that keeps the rules, without a database or a network.

    `memory`: how long Stripe remembers identifiers, which is at least a day. Summaries are half an hour behind.
    """

    memory: timedelta
    now: datetime = NOW
    ledger: list[Decimal] = field(default_factory=lambda: [Decimal(0)] * 3)
    rows: list[Row] = field(default_factory=list)
    received: list[tuple[str, int, Decimal, datetime]] = field(default_factory=list)

    def plan(self) -> None:
        for window, quantity in enumerate(self.ledger):
            entries = [
                Entry(row.sequence, row.quantity, row.progress.state) for row in self.rows if row.window == window
            ]
            for part in plan_parts(entries, quantity):
                fresh = Progress(next_attempt_at=self.now)
                self.rows.append(Row(window, part.sequence, part.quantity, fresh))

    def receive(self, row: Row) -> Outcome:
        for identifier, _, _, at in self.received:
            if identifier == row.identifier and self.now - at < self.memory:
                return Outcome(Answer.DUPLICATE)
        self.received.append((row.identifier, row.window, row.quantity, self.now))
        return Outcome(Answer.ACCEPTED)

    def summary(self, window: int) -> Decimal:
        return sum(
            (
                quantity
                for _, of, quantity, at in self.received
                if of == window and self.now - at >= timedelta(minutes=30)
            ),
            Decimal(0),
        )

    def send(self, fate: str) -> bool:
        """Do what is to be done with one row; False where none is due."""
        due = [row for row in self.rows if row.progress.state in UNSETTLED and self._is_due(row)]
        if not due:
            return False
        row = due[0]
        if next_step(row.progress, event_time=self.now, now=self.now) == Step.ASK:
            self._ask(row)
            return True
        row.progress = claim(row.progress, now=self.now)
        if fate == "killed before sending":
            return True
        if fate == "throttled":
            outcome = Outcome(Answer.THROTTLED)
        elif fate == "lost before":
            outcome = Outcome(Answer.UNCLEAR)
        else:
            outcome = self.receive(row)
            if fate == "lost after":
                outcome = Outcome(Answer.UNCLEAR)
        if not fate.startswith("killed"):
            row.progress = settle(row.progress, outcome, now=self.now, jitter=0.5)
        return True

    def _is_due(self, row: Row) -> bool:
        return row.progress.next_attempt_at is not None and row.progress.next_attempt_at <= self.now

    def _ask(self, row: Row) -> None:
        others = [other for other in self.rows if other.window == row.window and other is not row]
        moved = [at for each in [row, *others] for at in (each.progress.claimed_at, each.progress.delivered_at) if at]
        finding = Finding.INCONCLUSIVE
        if self.now - max(moved) >= SUMMARY_LAG:
            delivered = sum(
                (other.quantity for other in others if other.progress.state == ReportState.DELIVERED), Decimal(0)
            )
            uncertain = (ReportState.UNKNOWN, ReportState.SENDING)
            unknown = tuple(other.quantity for other in others if other.progress.state in uncertain)
            finding = judge(MinuteTotals(delivered, (row.quantity, *unknown)), self.summary(row.window))
        row.progress = resolve(row.progress, finding, now=self.now)

    def come_to_rest(self) -> None:
        for _ in range(400):
            self.plan()
            while self.send("accepted"):
                pass
            self.plan()  # what was found absent is said again
            if not any(row.progress.state in UNSETTLED for row in self.rows):
                return
            self.now += timedelta(hours=1)
        raise AssertionError(f"never at rest: {self.rows}")


LOST = [("use", 0, 1), ("plan",), ("send", "lost after")]
KILLED_LATER = [("wait", 9), ("send", "killed before sending"), ("wait", 9), ("send", "killed before sending")]
LOST_LATE = [("use", 0, 1), ("plan",), ("send", "lost before"), *[("wait", 9)] * 2, *[("wait", 1.5)] * 3]
ASKED_AT_ONCE = [*[("wait", 0.1)] * 4, ("send", "lost after"), ("wait", 0.1), ("send", "accepted")]


@settings(max_examples=300, deadline=None)
# Attempts that went nowhere do not make the first one's identifier any younger.
@example(steps=[*LOST, *KILLED_LATER, ("wait", 9)], memory=timedelta(hours=24))
# A summary that is behind does not tell that the last attempt is absent.
@example(steps=[*LOST_LATE, *ASKED_AT_ONCE], memory=timedelta(hours=24))
@given(
    steps=st.lists(STEPS, max_size=40),
    memory=st.sampled_from([timedelta(hours=24), timedelta(hours=30), timedelta(days=30)]),
)
def test_whatever_happens_what_arrived_is_the_ledger_in_the_end(
    steps: list[tuple[Any, ...]], memory: timedelta
) -> None:
    """Late events, corrections, lost calls and killed processes in any order."""
    world = World(memory)
    for step in steps:
        match step:
            case "use", window, quantity:
                world.ledger[int(window)] += Decimal(quantity)
            case ("plan",):
                world.plan()
            case "send", fate:
                world.send(fate)
            case "wait", hours:
                world.now += timedelta(hours=float(hours))

    world.come_to_rest()

    arrived = [sum((q for _, of, q, _ in world.received if of == window), Decimal(0)) for window in range(3)]
    assert arrived == world.ledger
