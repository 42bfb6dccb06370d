"""The SDK without a server: retries, errors, streams, quantities, periods. Pure functions and played answers."""

import email.utils
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from meterbook import (
    AlreadyExistsError,
    AuthenticationError,
    Client,
    ConflictError,
    Event,
    MeterbookError,
    NotFoundError,
    Period,
    PermissionRefusedError,
    RateLimitedError,
    RetryPolicy,
    ServerUnavailableError,
    TooLargeError,
    ValidationError,
    current_billing_period,
    current_month,
    current_period,
    last_billing_period,
    last_month,
    scale,
    unscale,
)
from meterbook.sse import Message, MessageReader
from meterbook.wire import retry_after_seconds

QUICK = RetryPolicy(attempts=4, first_delay=0.001, longest_delay=0.002)
STORED = {"stored": 1, "duplicates": 0, "rejected": 0, "errors": [], "first_offset": "1", "last_offset": "1"}


class PlayedServer:
    """Answers requests with the given answers in turn, and remembers the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = iter(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, retry: RetryPolicy = QUICK) -> Client:
        return Client("http://played", "mb_a_b", retry=retry, transport=httpx.MockTransport(self))


def answer(status: int, body: Any = None, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers=headers)


class TestRetries:
    @pytest.mark.parametrize(
        "failure",
        [
            answer(429),
            answer(502),
            answer(503),
            answer(504),
            httpx.ConnectError("refused"),
            httpx.ReadTimeout("slow"),
            httpx.RemoteProtocolError("cut off"),
        ],
        ids=["429", "502", "503", "504", "not connected", "no answer", "cut off"],
    )
    def test_ingest_repeats_the_same_bytes_until_it_is_answered(self, failure: httpx.Response | Exception) -> None:
        server = PlayedServer(failure, failure, answer(200, STORED))

        result = server.client().ingest({"customer": "acme", "metric": "calls"})

        assert result.stored == 1
        first, *others = [request.content for request in server.requests]
        assert others == [first, first]
        assert json.loads(first)[0]["idempotency_key"]

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
    def test_refusals_are_not_repeated(self, status: int) -> None:
        server = PlayedServer(answer(status, {"code": "no", "message": "No."}))
        with pytest.raises(MeterbookError):
            server.client().ingest({"customer": "acme", "metric": "calls"})
        assert len(server.requests) == 1

    def test_patience_ends(self) -> None:
        server = PlayedServer(*[answer(503)] * 4)
        with pytest.raises(ServerUnavailableError):
            server.client().metrics.list()
        assert len(server.requests) == 4

    def test_what_is_not_repeatable_is_repeated_only_if_it_did_not_arrive(self) -> None:
        voided = {"idempotency_key": "k", "reason": "r", "actor": "a", "voided_at": "2026-11-20T10:00:00Z"}
        refused = PlayedServer(httpx.ConnectError("refused"), answer(503), answer(200, voided))
        assert refused.client().void("k", reason="r").actor == "a"

        cut_off = PlayedServer(httpx.ReadTimeout("slow"), answer(200, voided))
        with pytest.raises(ServerUnavailableError):
            cut_off.client().void("k", reason="r")
        assert len(cut_off.requests) == 1

    def test_retry_after_is_waited_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pauses: list[float] = []
        monkeypatch.setattr("meterbook.transport.time.sleep", pauses.append)
        server = PlayedServer(answer(429, **{"Retry-After": "7"}), answer(503), answer(200, STORED))

        server.client().ingest({"customer": "acme", "metric": "calls"})

        assert pauses[0] == 7
        assert pauses[1] <= QUICK.longest_delay

    def test_retry_after_beyond_patience_is_raised_at_once(self) -> None:
        server = PlayedServer(answer(429, {"code": "rate_limited", "message": "Slow down."}, **{"Retry-After": "3600"}))
        with pytest.raises(RateLimitedError) as caught:
            server.client().metrics.list()
        assert caught.value.retry_after == 3600

    def test_delays_double_and_scatter(self) -> None:
        policy = RetryPolicy(first_delay=1, longest_delay=10)
        for attempt, expected in enumerate([1, 2, 4, 8, 10, 10]):
            delays = [policy.backoff(attempt) for _ in range(100)]
            assert expected / 2 <= min(delays) < max(delays) <= expected
        assert policy.backoff(10_000) <= 10

    def test_failure_in_the_middle_tells_what_was_stored_before(self) -> None:
        server = PlayedServer(answer(200, STORED), answer(500))
        with pytest.raises(ServerUnavailableError) as caught:
            server.client().ingest([Event(customer="acme", metric="calls") for _ in range(2)], batch_size=1)
        assert caught.value.partial is not None
        assert caught.value.partial.stored == 1


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    date = email.utils.format_datetime(now + timedelta(seconds=90), usegmt=True)
    assert retry_after_seconds("12", now=now.timestamp()) == 12
    assert retry_after_seconds(date, now=now.timestamp()) == 90
    assert retry_after_seconds(date, now=now.timestamp() + 1000) == 0
    assert retry_after_seconds("soon") is None
    assert retry_after_seconds(None) is None


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "malformed", ValidationError),
        (401, "not_authenticated", AuthenticationError),
        (403, "missing_scope", PermissionRefusedError),
        (404, "not_found", NotFoundError),
        (405, "method_not_allowed", MeterbookError),
        (409, "already_exists", AlreadyExistsError),
        (409, "immutable", ConflictError),
        (413, "too_large", TooLargeError),
        (422, "invalid", ValidationError),
        (429, "rate_limited", RateLimitedError),
        (500, "broken", ServerUnavailableError),
        (503, "unavailable", ServerUnavailableError),
    ],
)
def test_every_answer_has_its_error(status: int, code: str, expected: type[MeterbookError]) -> None:
    body = {"code": code, "message": "Because.", "errors": [{"field": "name", "code": "x", "message": "y"}]}
    with pytest.raises(expected, match="Because") as caught:
        PlayedServer(answer(status, body)).client(RetryPolicy(attempts=1)).metrics.list()
    assert type(caught.value) is expected
    assert (caught.value.status, caught.value.code) == (status, code)
    if isinstance(caught.value, ValidationError):
        assert caught.value.errors[0].field == "name"


@pytest.mark.parametrize("content", [b"<html>Bad gateway</html>", b"", b"[1]", b"\xff"])
def test_answer_of_a_proxy_is_no_puzzle(content: bytes) -> None:
    server = PlayedServer(httpx.Response(418, content=content))
    with pytest.raises(MeterbookError, match="418") as caught:
        server.client().metrics.list()
    assert caught.value.code == "http_418"


def test_redirect_says_which_address_to_use() -> None:
    server = PlayedServer(httpx.Response(301, headers={"location": "https://played/v1/metrics"}))
    with pytest.raises(MeterbookError, match="https://played"):
        server.client().metrics.list()


def test_page_in_place_of_an_answer_is_told() -> None:
    server = PlayedServer(httpx.Response(200, html="<title>Welcome to nginx</title>"))
    with pytest.raises(MeterbookError, match="not JSON"):
        server.client().metrics.list()


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://somewhere", "http://"])
def test_address_without_scheme_or_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https://host:port"):
        Client(url, "mb_a_b")


def test_key_is_not_shown() -> None:
    assert "secret" not in repr(vars(Client("http://played", "mb_a_secret")._transport))


class TestEvents:
    def test_key_is_made_once_with_the_event(self) -> None:
        event = Event(customer="acme", metric="calls")
        assert event.as_json() == event.as_json()
        assert event.idempotency_key != Event(customer="acme", metric="calls").idempotency_key

    def test_keys_are_in_the_order_of_their_making(self) -> None:
        early, late = Event(customer="acme", metric="calls"), None
        while late is None or late.idempotency_key[:12] == early.idempotency_key[:12]:
            late = Event(customer="acme", metric="calls")
        assert early.idempotency_key < late.idempotency_key

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (1, "1"),
            (0.1, "0.1"),
            (1e-7, "0.0000001"),
            (Decimal("1E+3"), "1000"),
            ("45.0", "45.0"),
            (10**30, "1" + "0" * 30),
        ],
    )
    def test_value_travels_as_plain_decimal_text(self, value: Any, expected: str) -> None:
        assert Event(customer="acme", metric="bytes", value=value).as_json()["value"] == expected

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), Decimal("NaN"), True])
    def test_what_is_no_number_is_refused(self, value: Any) -> None:
        with pytest.raises(ValueError, match="number"):
            Event(customer="acme", metric="bytes", value=value).as_json()

    def test_naive_time_is_refused_and_an_aware_one_keeps_its_zone(self) -> None:
        berlin = datetime(2026, 11, 20, 10, tzinfo=ZoneInfo("Europe/Berlin"))
        assert Event(customer="a", metric="b", timestamp=berlin).as_json()["timestamp"] == "2026-11-20T10:00:00+01:00"
        with pytest.raises(ValueError, match="has no zone"):
            Event(customer="a", metric="b", timestamp=datetime(2026, 11, 20)).as_json()

    def test_type_and_metric_exclude_each_other(self) -> None:
        for event in (Event(customer="acme"), Event(customer="acme", type="a", metric="b")):
            with pytest.raises(ValueError, match="exactly one"):
                event.as_json()


class TestMessages:
    STREAM = b': listening\nretry: 1500\n\nid: 7\ndata: {"a":\ndata: 1}\n\nevent: skipped\r\ndata: 3\r\n\r\n'

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
    def test_pieces_of_any_size_make_the_same_messages(self, size: int) -> None:
        reader = MessageReader()
        pieces = [self.STREAM[start : start + size] for start in range(0, len(self.STREAM), size)]

        messages = [message for piece in pieces for message in reader.feed(piece)]

        assert messages == [Message("7", "message", '{"a":\n1}'), Message("7", "skipped", "3")]
        assert reader.retry_seconds == 1.5

    def test_resumes_after_the_last_whole_message(self) -> None:
        reader = MessageReader()
        reader.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b")
        assert reader.reconnect()["Last-Event-ID"] == "1"
        assert reader.feed(b"id: 2\ndata: b\n\n") == [Message("2", "message", "b")]


def test_scale_keeps_six_decimals_and_unscale_is_its_inverse() -> None:
    assert scale(45.0) == 45_000_000
    assert scale("0.0000015") == 2  # half to even
    assert scale(Decimal("-9.99")) == -9_990_000
    assert unscale(scale("123456789012345678901234567890.123456")) == Decimal("123456789012345678901234567890.123456")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]  # a date's parts, of which there are three or more


class TestPeriods:
    @pytest.mark.parametrize(
        ("period", "start", "end"),
        [
            (current_month(now=utc(2024, 2, 29, 12)), utc(2024, 2, 1), utc(2024, 3, 1)),
            (current_month(now=utc(2026, 12, 31, 23, 59)), utc(2026, 12, 1), utc(2027, 1, 1)),
            (last_month(now=utc(2026, 1, 1)), utc(2025, 12, 1), utc(2026, 1, 1)),
            (current_billing_period(15, now=utc(2026, 11, 15)), utc(2026, 11, 15), utc(2026, 12, 15)),
            (current_billing_period(15, now=utc(2026, 11, 14, 23, 59, 59)), utc(2026, 10, 15), utc(2026, 11, 15)),
            (current_billing_period(28, now=utc(2026, 1, 5)), utc(2025, 12, 28), utc(2026, 1, 28)),
            (last_billing_period(15, now=utc(2026, 1, 20)), utc(2025, 12, 15), utc(2026, 1, 15)),
            (current_period(timedelta(days=30), now=utc(1970, 1, 31)), utc(1970, 1, 31), utc(1970, 3, 2)),
            (current_period(timedelta(days=7), now=utc(1970, 1, 7, 23)), utc(1970, 1, 1), utc(1970, 1, 8)),
        ],
    )
    def test_edges(self, period: Period, start: datetime, end: datetime) -> None:
        assert (period.start, period.end) == (start, end)

    def test_edges_are_midnights_of_the_zone_over_a_change_of_clocks(self) -> None:
        berlin = ZoneInfo("Europe/Berlin")
        period = current_month(now=utc(2026, 3, 15), tz=berlin)
        assert period.start.astimezone(UTC) == utc(2026, 2, 28, 23)
        assert period.end.astimezone(UTC) == utc(2026, 3, 31, 22)

    def test_now_belongs_to_the_day_that_the_zone_has(self) -> None:
        kiritimati = ZoneInfo("Pacific/Kiritimati")  # UTC+14: the next month has begun
        assert current_month(now=utc(2026, 10, 31, 12), tz=kiritimati).start.month == 11

    @pytest.mark.parametrize("day", [0, 29])
    def test_day_that_some_months_lack_is_refused(self, day: int) -> None:
        with pytest.raises(ValueError, match="1 to 28"):
            current_billing_period(day)

    def test_period_without_length_or_zone_is_refused(self) -> None:
        with pytest.raises(ValueError, match="before its end"):
            Period(utc(2026, 1, 1), utc(2026, 1, 1))
        with pytest.raises(ValueError, match="zone"):
            Period(datetime(2026, 1, 1), datetime(2026, 2, 1))
