"""Verifying webhooks: what is genuine passes, everything else is refused. The reference library signs."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from meterbook import WebhookVerificationError, verify_webhook
from standardwebhooks import Webhook

from tests.clients.alert_servers import alert_body

# The secret of the Standard Webhooks specification's own example.
SPECIFIED_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
NOW = 1_790_000_000


def body_of(**fields: Any) -> bytes:
    message = {"type": "alert.crossed", "timestamp": "2026-09-21T13:33:20Z", "data": alert_body(7), **fields}
    return json.dumps(message).encode()


def headers_of(
    body: bytes, *, secret: str = SPECIFIED_SECRET, at: int = NOW, changed: Mapping[str, str] | None = None
) -> dict[str, str]:
    signature = Webhook(secret).sign("msg_1", datetime.fromtimestamp(at, UTC), body.decode())
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": signature}
    return {**headers, **(changed or {})}


def test_genuine_message_is_returned_with_its_alert() -> None:
    body = body_of()

    message = verify_webhook(SPECIFIED_SECRET, headers_of(body), body, now=NOW)

    assert (message.id, message.type) == ("msg_1", "alert.crossed")
    assert message.timestamp == datetime(2026, 9, 21, 13, 33, 20, tzinfo=UTC)
    assert message.alert is not None
    assert (message.alert.offset, message.alert.threshold_value) == (7, Decimal("100.5"))


def test_signature_is_that_of_the_specification() -> None:
    """The example of the reference implementations, which pins the scheme apart from any library."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }

    # The signature is good, and only then is the body looked at, which is no message of ours.
    with pytest.raises(WebhookVerificationError, match="none of Meterbook's"):
        verify_webhook(SPECIFIED_SECRET, headers, b'{"test": 2432232314}', now=1614265330)


def test_message_of_another_type_has_no_alert() -> None:
    body = body_of(type="alert.test", data={"hello": "there"})

    message = verify_webhook(SPECIFIED_SECRET, headers_of(body), body, now=NOW)

    assert (message.type, message.alert, message.data) == ("alert.test", None, {"hello": "there"})


def test_names_of_headers_may_be_of_any_case_and_the_body_text() -> None:
    body = body_of()
    headers = {name.title(): value for name, value in headers_of(body).items()}

    assert verify_webhook(SPECIFIED_SECRET, headers, body.decode(), now=NOW).id == "msg_1"


def test_secret_without_its_prefix_is_the_same_secret() -> None:
    body = body_of()

    assert verify_webhook(SPECIFIED_SECRET.removeprefix("whsec_"), headers_of(body), body, now=NOW).id == "msg_1"


@pytest.mark.parametrize("secrets", [[SPECIFIED_SECRET, OTHER_SECRET], [OTHER_SECRET, SPECIFIED_SECRET]])
def test_any_of_several_secrets_and_of_several_signatures_will_do(secrets: list[str]) -> None:
    body = body_of()
    old, new = headers_of(body, secret=OTHER_SECRET), headers_of(body)
    both = {**new, "webhook-signature": f"v1a,AAAA {old['webhook-signature']} {new['webhook-signature']}"}

    assert verify_webhook(secrets, new, body, now=NOW).id == "msg_1"
    assert verify_webhook(OTHER_SECRET, both, body, now=NOW).id == "msg_1"
    assert verify_webhook(SPECIFIED_SECRET, both, body, now=NOW).id == "msg_1"


@pytest.mark.parametrize(("seconds", "is_good"), [(-301, False), (-300, True), (300, True), (301, False)])
def test_message_older_or_newer_than_five_minutes_is_refused(seconds: int, is_good: bool) -> None:
    body = body_of()
    headers = headers_of(body, at=NOW + seconds)

    if is_good:
        assert verify_webhook(SPECIFIED_SECRET, headers, body, now=NOW).id == "msg_1"
    else:
        with pytest.raises(WebhookVerificationError, match="not of now"):
            verify_webhook(SPECIFIED_SECRET, headers, body, now=NOW)


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": "-5"},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,é"},
        {"webhook-signature": "v2,AAAA"},
    ],
)
def test_changed_header_is_refused(changed: dict[str, str]) -> None:
    body = body_of()

    with pytest.raises(WebhookVerificationError):
        verify_webhook(SPECIFIED_SECRET, headers_of(body, changed=changed), body, now=NOW)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_missing_header_is_named(name: str) -> None:
    body = body_of()
    headers = {known: value for known, value in headers_of(body).items() if known != name}

    with pytest.raises(WebhookVerificationError, match=name):
        verify_webhook(SPECIFIED_SECRET, headers, body, now=NOW)


def test_changed_body_is_refused() -> None:
    body = body_of()

    with pytest.raises(WebhookVerificationError):
        verify_webhook(SPECIFIED_SECRET, headers_of(body), body + b" ", now=NOW)


def test_signature_of_another_secret_is_refused() -> None:
    body = body_of()

    with pytest.raises(WebhookVerificationError):
        verify_webhook(OTHER_SECRET, headers_of(body), body, now=NOW)


def test_no_secret_verifies_nothing() -> None:
    body = body_of()

    with pytest.raises(WebhookVerificationError):
        verify_webhook([], headers_of(body), body, now=NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64!", "passwörd"])
def test_what_is_no_secret_is_a_mistake_of_the_caller(secret: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        verify_webhook(secret, {}, b"")


@pytest.mark.parametrize("text", ["[]", "null", "not json", "{}", '{"type": "alert.crossed"}', '"\u00ff'])
def test_signed_nonsense_is_refused_without_another_exception(text: str) -> None:
    body = text.encode()

    with pytest.raises(WebhookVerificationError, match="none of Meterbook's"):
        verify_webhook(SPECIFIED_SECRET, headers_of(body), body, now=NOW)
