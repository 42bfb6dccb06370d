"""When a message is tried again, who may be sent to at once, and when a digest is due: pure rules, by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from django.test import override_settings
from standardwebhooks import Webhook

from alerts.domain import DigestFrequency, Lane, Slots, allot_slots, latest_digest_time, plan_retry
from alerts.signatures import SecretUnreadable, make_secret, open_secret, seal_secret, sign_message
from tests.metering.meter import utc

START = utc(2026, 11, 20, 12)
NO_JITTER, ALL_JITTER = Fraction(0), Fraction(1)


class TestRetries:
    @pytest.mark.parametrize(
        ("failures", "earliest", "latest"),
        [
            (1, timedelta(seconds=5), timedelta(seconds=6.25)),
            (2, timedelta(seconds=30), timedelta(seconds=37.5)),
            (3, timedelta(minutes=2), timedelta(minutes=2.5)),
            (10, timedelta(hours=12), timedelta(hours=15)),
            (11, timedelta(hours=12), timedelta(hours=15)),
        ],
    )
    def test_pauses_grow_and_scatter(self, failures: int, earliest: timedelta, latest: timedelta) -> None:
        def plan(jitter: Fraction) -> datetime | None:
            return plan_retry(failures=failures, first_attempt_at=START, now=START, jitter=jitter)

        assert plan(NO_JITTER) == START + earliest
        assert plan(ALL_JITTER) == START + latest

    @pytest.mark.parametrize(
        ("asked", "granted"),
        [
            (timedelta(0), timedelta(seconds=5)),
            (timedelta(seconds=4), timedelta(seconds=5)),
            (timedelta(minutes=10), timedelta(minutes=10)),
            (timedelta(days=400), timedelta(days=1)),
        ],
    )
    def test_retry_after_is_honoured_within_bounds(self, asked: timedelta, granted: timedelta) -> None:
        planned = plan_retry(failures=1, first_attempt_at=START, now=START, jitter=NO_JITTER, retry_after=asked)

        assert planned == START + granted

    def test_the_last_attempt_is_when_the_time_is_up(self) -> None:
        end = START + timedelta(days=3)

        late = plan_retry(failures=12, first_attempt_at=START, now=end - timedelta(hours=1), jitter=NO_JITTER)
        assert late == end
        assert plan_retry(failures=13, first_attempt_at=START, now=end, jitter=NO_JITTER) is None

    @pytest.mark.parametrize("jitter", [NO_JITTER, ALL_JITTER])
    def test_an_endpoint_that_never_answers_is_tried_for_three_days(self, jitter: Fraction) -> None:
        attempts = [START]
        while (
            planned := plan_retry(failures=len(attempts), first_attempt_at=START, now=attempts[-1], jitter=jitter)
        ) is not None:
            attempts.append(planned)

        assert attempts == sorted(set(attempts))
        assert attempts[-1] == START + timedelta(days=3)
        assert 12 <= len(attempts) <= 16


def lane(endpoint_id: int, organization_id: int = 1, *, is_failing: bool = False) -> Lane:
    return Lane(endpoint_id, organization_id, is_failing)


class TestSlots:
    SLOTS = Slots(total=10, per_organization=6, per_endpoint=4, per_failing_endpoint=1, failing=2)

    @pytest.mark.parametrize(
        ("waiting", "under_way", "expected"),
        [
            ([], [], {}),
            ([lane(1)], [], {1: 4}),
            ([lane(1)], [lane(1)] * 3, {1: 1}),
            ([lane(1)], [lane(1)] * 4, {}),
            # Dealt out one by one within the organization's six.
            ([lane(1), lane(2), lane(3), lane(4)], [], {1: 2, 2: 2, 3: 1, 4: 1}),
            ([lane(1), lane(2)], [lane(3)] * 5, {1: 1}),
            # The other organization gets what is left of ten.
            ([lane(1), lane(2), lane(3, 2)], [], {1: 3, 2: 3, 3: 4}),
            ([lane(3, 2)], [lane(1)] * 4 + [lane(2)] * 2 + [lane(4, 3)] * 3, {3: 1}),
            # Failing ones one at a time, and two at most of all.
            ([lane(1, is_failing=True)], [], {1: 1}),
            ([lane(1, is_failing=True)], [lane(1, is_failing=True)], {}),
            ([lane(n, n, is_failing=True) for n in (1, 2, 3)], [], {1: 1, 2: 1}),
            ([lane(3, 3, is_failing=True), lane(4, 4)], [lane(n, n, is_failing=True) for n in (1, 2)], {4: 4}),
        ],
    )
    def test_slots_are_dealt_out(self, waiting: list[Lane], under_way: list[Lane], expected: dict[int, int]) -> None:
        assert allot_slots(waiting=waiting, under_way=under_way, slots=self.SLOTS) == expected


class TestDigestTimes:
    @pytest.mark.parametrize(
        ("frequency", "now", "zone", "expected"),
        [
            ("soon", utc(2026, 11, 20, 12, 34, 56), "UTC", utc(2026, 11, 20, 12, 34, 56)),
            ("hourly", utc(2026, 11, 20, 12, 34, 56), "Asia/Kolkata", utc(2026, 11, 20, 12)),
            ("hourly", utc(2026, 11, 20, 12), "UTC", utc(2026, 11, 20, 12)),
            ("daily", utc(2026, 11, 20, 7), "UTC", utc(2026, 11, 20, 7)),
            ("daily", utc(2026, 11, 20, 6, 59, 59), "UTC", utc(2026, 11, 19, 7)),
            ("daily", utc(2026, 11, 20, 12), "Asia/Kolkata", utc(2026, 11, 20, 1, 30)),
            # Berlin leaves summer time on 25 October: seven o'clock is 5:00 UTC before and 6:00 after.
            ("daily", utc(2026, 10, 24, 12), "Europe/Berlin", utc(2026, 10, 24, 5)),
            ("daily", utc(2026, 10, 25, 12), "Europe/Berlin", utc(2026, 10, 25, 6)),
            ("daily", utc(2026, 10, 25, 5, 30), "Europe/Berlin", utc(2026, 10, 24, 5)),
        ],
    )
    def test_the_last_due_time(self, frequency: str, now: datetime, zone: str, expected: datetime) -> None:
        assert latest_digest_time(DigestFrequency(frequency), now=now, zone=ZoneInfo(zone)) == expected


class TestSecrets:
    def test_a_sealed_secret_opens_again_and_shows_nothing(self) -> None:
        secret = make_secret()

        sealed = seal_secret(secret)

        assert open_secret(sealed) == secret
        assert secret.encode() not in sealed
        assert seal_secret(secret) != sealed

    def test_a_new_secret_key_still_opens_with_the_old_one_as_fallback(self) -> None:
        with override_settings(SECRET_KEY="old"):
            sealed = seal_secret("whsec_x")
        with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]):
            assert open_secret(sealed) == "whsec_x"
        with override_settings(SECRET_KEY="new"), pytest.raises(SecretUnreadable):
            open_secret(sealed)

    def test_the_signature_counts_seconds_of_utc_whatever_the_clocks_zone(self) -> None:
        secret, now = make_secret(), datetime.now(ZoneInfo("Asia/Kolkata"))

        headers = sign_message(message_id="msg_1", body='{"a":1}', now=now, secrets=[secret])

        assert headers["webhook-timestamp"] == str(int(now.astimezone(UTC).timestamp()))
        assert Webhook(secret).verify('{"a":1}', headers) == {"a": 1}
