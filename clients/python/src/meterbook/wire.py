"""The protocol without the network: calls, answers and plans.

A *plan* is a generator that yields `Call`s, is sent their `Answer`s and returns a result. Every verb is a plan,
written once; a synchronous and an asynchronous transport drive it. Retries wrap a plan as another generator, so
that neither transport decides anything.
"""

from __future__ import annotations

import email.utils
import itertools
import json
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeAlias, TypeVar

from meterbook.errors import MeterbookError, ServerUnavailableError, error_from_answer
from meterbook.periods import time_text
from meterbook.quantities import decimal_text

T = TypeVar("T")
Parameters: TypeAlias = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, without address and key. `is_repeatable`: sent twice it has the effect of once.

    `is_compressed`: whether the body goes compressed; None leaves it to the client.
    """

    method: str
    path: str
    parameters: Parameters = ()
    content: bytes | None = None
    is_repeatable: bool = True
    is_compressed: bool | None = None

    @classmethod
    def get(cls, path: str, **parameters: Any) -> Call:
        return cls("GET", path, present(**parameters))

    @classmethod
    def send(cls, method: str, path: str, body: Any, *, is_repeatable: bool) -> Call:
        return cls(method, path, (), encode_json(body), is_repeatable)

    @classmethod
    def post(cls, path: str, body: Any, *, is_repeatable: bool = False) -> Call:
        return cls.send("POST", path, body, is_repeatable=is_repeatable)

    def with_parameters(self, **parameters: Any) -> Call:
        return replace(self, parameters=[*self.parameters, *present(**parameters)])


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    reason: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)

    def json(self) -> Any:
        """Decode the body; numbers with a fraction become `Decimal`, never float. Raises `MeterbookError`."""
        try:
            return json.loads(self.content, parse_float=Decimal)
        except ValueError:
            message = "The answer is not JSON; is this the address of a Meterbook server?"
            raise MeterbookError(message, code="unreadable_answer", status=self.status) from None

    def error(self) -> MeterbookError:
        """Return the error that the answer stands for. One from a proxy on the way may hold anything, or nothing."""
        if self.status < 400:
            message = f"The server redirects to {self.headers.get('location')}; use that address."
            return MeterbookError(message, code="redirected", status=self.status)
        try:
            body = self.json()
        except MeterbookError:
            body = None
        return error_from_answer(
            status=self.status,
            body=body if isinstance(body, dict) else None,
            reason=self.reason,
            retry_after=retry_after_seconds(self.headers.get("retry-after")),
        )


@dataclass(frozen=True, slots=True)
class Pause:
    """What a transport must do between two attempts."""

    seconds: float


Plan: TypeAlias = Generator[Call, Answer, T]
Outcome: TypeAlias = Answer | ServerUnavailableError | None
Steps: TypeAlias = Generator[Call | Pause, Outcome, T]


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list that the server pages: the call of its first page, and how to read one item."""

    first: Call
    read: Callable[[dict[str, Any]], T]

    def page(self, call: Call) -> Plan[tuple[list[T], Call | None]]:
        """Return one page and the call of the next, None after the last."""
        answer = yield call
        body = answer.json()
        cursor = body.get("next_cursor")
        following = self.first.with_parameters(cursor=cursor) if cursor else None
        return [self.read(item) for item in body["data"]], following

    def all(self) -> Plan[list[T]]:
        items: list[T] = []
        call: Call | None = self.first
        while call is not None:
            page, call = yield from self.page(call)
            items += page
        return items


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently to repeat a request that was not answered, or answered 429, 502, 503 or 504.

    Delays double from `first_delay` to `longest_delay`, each shortened by up to half at random, so that clients
    that failed together do not come back together. A `Retry-After` is waited out in full, unless it is longer
    than `longest_retry_after`: then the error is raised at once.
    """

    attempts: int = 6
    first_delay: float = 0.25
    longest_delay: float = 8.0
    longest_retry_after: float = 60.0

    def backoff(self, attempt: int) -> float:
        """Return the seconds to wait after the given failed attempt, counted from 0."""
        # 2**32 times any first delay is beyond any longest delay; a larger power would overflow in a long outage.
        doubled = self.first_delay * 2.0 ** min(attempt, 32)
        return min(doubled, self.longest_delay) * random.uniform(0.5, 1.0)

    def delay(self, call: Call, attempt: int, failure: MeterbookError) -> float | None:
        """Return the seconds to wait before repeating the call, None when it must not be repeated."""
        if attempt + 1 >= self.attempts or not is_retryable(call, failure):
            return None
        if failure.retry_after is None:
            return self.backoff(attempt)
        return failure.retry_after if failure.retry_after <= self.longest_retry_after else None


NO_RETRY = RetryPolicy(attempts=1)
# 503 is the server's own refusal before it does anything; the other two come from a proxy that may have passed
# the request on.
_RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})
_REFUSED_UNTOUCHED = frozenset({429, 503})


def is_retryable(call: Call, failure: MeterbookError) -> bool:
    if isinstance(failure, ServerUnavailableError) and failure.status is None:
        return call.is_repeatable or not failure.may_have_arrived
    return failure.status in (_RETRYABLE_STATUSES if call.is_repeatable else _REFUSED_UNTOUCHED)


def with_retries(plan: Plan[T], policy: RetryPolicy) -> Steps[T]:
    """Turn a plan into the steps a transport takes: the plan's calls, repeated after pauses where they fail."""
    try:
        call = next(plan)
        while True:
            try:
                answer = yield from _attempts(call, policy)
            except MeterbookError as error:
                call = plan.throw(error)
            else:
                call = plan.send(answer)
    except StopIteration as done:
        result: T = done.value
        return result


def _attempts(call: Call, policy: RetryPolicy) -> Steps[Answer]:
    for attempt in itertools.count():
        outcome = yield call
        if isinstance(outcome, Answer) and outcome.status < 300:
            return outcome
        failure = outcome.error() if isinstance(outcome, Answer) else outcome
        assert failure is not None, "a transport answers every call"
        delay = policy.delay(call, attempt, failure)
        if delay is None:
            raise failure
        yield Pause(delay)
    raise AssertionError("unreachable: the loop ends by returning or raising")


def retry_after_seconds(header: str | None, *, now: float | None = None) -> float | None:
    """Read a `Retry-After`: seconds or an HTTP date. An unreadable one counts as absent."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - (time.time() if now is None else now))


def present(**parameters: Any) -> list[tuple[str, str]]:
    """Return the query parameters that have a value; a list repeats its key."""
    pairs: list[tuple[str, str]] = []
    for name, value in parameters.items():
        values = value if isinstance(value, list | tuple) else [value]
        pairs += [(name, str(item)) for item in values if item is not None]
    return pairs


def encode_json(body: Any) -> bytes:
    """Encode a body. Raises `ValueError` for NaN, and for text that is not Unicode."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return decimal_text(value)
    if isinstance(value, datetime):
        return str(time_text(value))
    raise TypeError(f"{type(value).__name__} has no form in JSON.")


def one_object(call: Call) -> Plan[dict[str, Any]]:
    """Make one call whose answer is a JSON object."""
    answer = yield call
    body: dict[str, Any] = answer.json()
    return body
