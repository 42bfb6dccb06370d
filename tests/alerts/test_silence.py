"""Silence: told once when it has lasted long enough, ended by the next event."""

from __future__ import annotations

from datetime import timedelta

import pytest

from alerts.models import Crossing, Threshold
from alerts.services.silence import check_silence
from tests.alerts.watch import Watch

HOUR = timedelta(hours=1)


@pytest.fixture
def quiet(watch: Watch) -> Watch:
    """Ann sent an event at noon; an hour without another is too long. The threshold is a day older."""
    watch.define("m", "sum")
    watch.use("ann", 1)
    watch.threshold("m", "quiet", 3600, kind="silence", customer="ann")
    Threshold.objects.all_tenants().update(created_at=watch.now - timedelta(days=1))
    return watch


def test_told_when_the_time_is_up_and_not_a_second_before(quiet: Watch) -> None:
    assert check_silence(organization=quiet.organization, now=quiet.now + HOUR - timedelta(seconds=1)) == 0
    assert check_silence(organization=quiet.organization, now=quiet.now + HOUR) == 1


def test_told_once(quiet: Watch) -> None:
    told = [check_silence(organization=quiet.organization, now=quiet.now + HOUR * hours) for hours in (1, 2, 48)]

    assert told == [1, 0, 0]


def test_the_next_event_ends_it_and_the_next_silence_is_told_again(quiet: Watch) -> None:
    check_silence(organization=quiet.organization, now=quiet.now + HOUR)

    quiet.use("ann", 1, at=quiet.now + 2 * HOUR)

    assert check_silence(organization=quiet.organization, now=quiet.now + 2.5 * HOUR) == 0
    assert check_silence(organization=quiet.organization, now=quiet.now + 3 * HOUR) == 1
    assert [(told.customer, told.code, told.value) for told in quiet.told()] == [("ann", "quiet", 3600)] * 2


def test_other_customers_do_not_end_it(quiet: Watch) -> None:
    quiet.use("bob", 1, at=quiet.now + HOUR / 2)

    assert check_silence(organization=quiet.organization, now=quiet.now + HOUR) == 1


def test_a_metric_as_a_whole_is_silent_when_everybody_is(quiet: Watch) -> None:
    quiet.threshold("m", "all-quiet", 3600, kind="silence")
    Threshold.objects.all_tenants().update(created_at=quiet.now - timedelta(days=1))
    quiet.use("bob", 1, at=quiet.now + HOUR / 2)

    check_silence(organization=quiet.organization, now=quiet.now + HOUR)
    assert [told.code for told in quiet.told()] == ["quiet"]
    check_silence(organization=quiet.organization, now=quiet.now + 1.5 * HOUR)

    assert [(told.customer, told.code) for told in quiet.told()] == [("ann", "quiet"), (None, "all-quiet")]


def test_who_never_sent_is_waited_for_from_the_threshold_on(quiet: Watch) -> None:
    quiet.define("other", "count")
    quiet.threshold("other", "never", 3600, kind="silence", customer="ann")
    made_at = quiet.now - timedelta(minutes=30)
    Threshold.objects.all_tenants().filter(code="never").update(created_at=made_at)

    for minutes in (29, 30):
        check_silence(organization=quiet.organization, now=quiet.now + timedelta(minutes=minutes))

    [crossing] = Crossing.objects.all_tenants().filter(threshold_code="never")
    assert (crossing.period_start, crossing.triggered_at) == (made_at, quiet.now + timedelta(minutes=30))
