"""The API of webhook endpoints: what is accepted, what is refused with which code, and what is shown once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from accounts.models import AuditEntry, Organization, Scope, User
from alerts.models import MESSAGE_TYPES, Delivery, DeliveryAttempt, DeliveryState, WebhookEndpoint
from alerts.services.deliveries import prune_deliveries
from tests import factories
from tests.alerts.watch import Watch

JSON = "application/json"
ENDPOINTS = "/v1/webhook-endpoints"
URL = "https://hooks.example.com/meterbook"

pytestmark = pytest.mark.django_db


def create(client: Client, **fields: Any) -> dict[str, Any]:
    response = client.post(ENDPOINTS, {"url": URL, **fields}, content_type=JSON)
    assert response.status_code == 201, response.content
    return dict(response.json())


def refusal(response: Any) -> tuple[int, str, list[str]]:
    body = response.json()
    return response.status_code, body["code"], [error["field"] for error in body["errors"]]


class TestEndpoints:
    def test_the_secret_is_shown_once(self, api_client: Client, org: Organization) -> None:
        created = create(api_client, description="billing", message_types=["alert.crossed"])

        secret = created.pop("secret")
        assert secret.startswith("whsec_")
        assert len(secret) >= len("whsec_") + 32  # 24 bytes of base64
        assert (
            created.items()
            >= {
                "url": URL,
                "description": "billing",
                "message_types": ["alert.crossed"],
                "metrics": [],
                "enabled": True,
                "disabled_reason": "",
                "failing_since": None,
            }.items()
        )
        one = api_client.get(f"{ENDPOINTS}/{created['id']}")
        assert one.json() == created
        assert api_client.get(ENDPOINTS).json() == {"data": [created], "next_cursor": None}
        stored = bytes(WebhookEndpoint.objects.for_organization(org).get().secret)
        assert secret.removeprefix("whsec_").encode() not in stored

    def test_two_endpoints_have_different_secrets(self, api_client: Client) -> None:
        assert create(api_client)["secret"] != create(api_client)["secret"]

    @pytest.mark.parametrize(
        ("url", "code"),
        [
            ("http://hooks.example.com/", "invalid_url"),
            ("ftp://hooks.example.com/", "invalid_url"),
            ("hooks.example.com", "invalid_url"),
            ("https://", "invalid_url"),
            ("https:///path", "invalid_url"),
            ("https://hooks.example.com:0/", "invalid_url"),
            ("https://hooks.example.com:99999/", "invalid_url"),
            ("https://user:password@hooks.example.com/", "invalid_url"),
            ("https://@hooks.example.com/", "invalid_url"),
            ("https://hooks.example.com/#part", "invalid_url"),
            ("https://hooks.example.com/a b", "invalid_url"),
            ("https://hooks.example.com\\@inside/", "invalid_url"),
            ("https://hooks.example.com/\r\nHost: x", "invalid_url"),
            ("https://höoks.example.com/", "invalid_url"),
            ("https://[::1", "invalid_url"),
            ("https://127.0.0.1/", "private_address"),
            ("https://127.1/", "private_address"),
            ("https://2130706433/", "private_address"),
            ("https://0x7f.0.0.1/", "private_address"),
            ("https://127.0.0.1./", "private_address"),
            ("https://0177.0.0.1/", "private_address"),
            ("https://10.1.2.3/", "private_address"),
            ("https://169.254.169.254/latest/meta-data", "private_address"),
            ("https://[::1]/", "private_address"),
            ("https://[::ffff:192.168.0.1]/", "private_address"),
            ("https://[fd00:ec2::254]/", "private_address"),
            ("https://localhost/", "private_address"),
            ("https://localhost./", "private_address"),
            ("https://db.internal/", "private_address"),
            ("https://intranet/", "private_address"),
        ],
    )
    def test_unusable_urls(self, api_client: Client, url: str, code: str) -> None:
        response = api_client.post(ENDPOINTS, {"url": url}, content_type=JSON)

        assert refusal(response) == (422, code, ["url"])

    @pytest.mark.parametrize(
        "url",
        ["https://8.8.8.8/x", "https://[2606:4700::1111]:8443/", "https://HOOKS.example.com", "https://a.test?q=1"],
    )
    def test_usable_urls(self, api_client: Client, url: str) -> None:
        assert create(api_client, url=url)["url"] == url

    def test_private_and_plain_where_the_installation_allows_it(self, api_client: Client, settings: Any) -> None:
        settings.WEBHOOKS_MAY_BE_PRIVATE = True

        assert create(api_client, url="http://127.0.0.1:8080/x")["enabled"]

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "url"),
            ({"url": 5}, "url"),
            ({"url": None}, "url"),
            ({"url": ""}, "url"),
            ({"url": "https://a.test/" + "x" * 2000}, "url"),
            ({"url": "https://a.test/\x00"}, "url"),
            ({"url": URL, "description": "x" * 201}, "description"),
            ({"url": URL, "description": None}, "description"),
            ({"url": URL, "message_types": "alert.crossed"}, "message_types"),
            ({"url": URL, "message_types": ["alert.unheard"]}, "message_types"),
            ({"url": URL, "message_types": ["alert.crossed"] * (len(MESSAGE_TYPES) + 1)}, "message_types"),
            ({"url": URL, "message_types": [["alert.crossed"]]}, "message_types[0]"),
            ({"url": URL, "metrics": ["nothing"]}, "metrics"),
            ({"url": URL, "metrics": [5]}, "metrics[0]"),
            ({"url": URL, "secret": "whsec_mine"}, "secret"),
            ({"url": URL, "enabled": False}, "enabled"),
        ],
    )
    def test_bad_bodies_name_the_field(self, api_client: Client, body: dict[str, Any], field: str) -> None:
        status, _, fields = refusal(api_client.post(ENDPOINTS, body, content_type=JSON))

        assert status == 422
        assert [name.split("[")[0] for name in fields] == [field.split("[")[0]]

    def test_fifty_at_most(self, api_client: Client, org: Organization) -> None:
        WebhookEndpoint.objects.bulk_create(
            WebhookEndpoint(organization=org, url=f"https://a.test/{n}", secret=b"x") for n in range(49)
        )
        create(api_client)

        response = api_client.post(ENDPOINTS, {"url": URL}, content_type=JSON)

        assert refusal(response) == (422, "too_many", ["url"])

    def test_changes_are_audited_with_old_and_new(self, api_client: Client, org: Organization, watch: Watch) -> None:
        watch.define("m", "sum")
        endpoint = create(api_client)
        path = f"{ENDPOINTS}/{endpoint['id']}"

        changed = api_client.patch(path, {"url": "https://new.example.com/", "metrics": ["m"]}, content_type=JSON)

        assert changed.status_code == 200
        assert (changed.json()["url"], changed.json()["metrics"]) == ("https://new.example.com/", ["m"])
        entry = AuditEntry.objects.for_organization(org).get(action="webhook_endpoint.updated")
        assert entry.details == {
            "url": {"from": URL, "to": "https://new.example.com/"},
            "metric_codes": {"from": [], "to": ["m"]},
        }
        assert entry.actor.startswith("key:")
        actions = AuditEntry.objects.for_organization(org).filter(action__startswith="webhook")
        assert list(actions.order_by("pk").values_list("action", flat=True)) == [
            "webhook_endpoint.created",
            "webhook_endpoint.updated",
        ]

    def test_a_change_is_examined_like_a_creation(self, api_client: Client) -> None:
        path = f"{ENDPOINTS}/{create(api_client)['id']}"

        for body, code in (
            ({"url": "https://10.0.0.1/"}, "private_address"),
            ({"message_types": ["x"]}, "unknown_message_type"),
            ({"metrics": ["x"]}, "unknown_metric"),
        ):
            response = api_client.patch(path, body, content_type=JSON)
            assert (response.status_code, response.json()["code"]) == (422, code)

    def test_switching_off_and_on(self, api_client: Client, org: Organization) -> None:
        path = f"{ENDPOINTS}/{create(api_client)['id']}"

        off = api_client.patch(path, {"enabled": False}, content_type=JSON).json()
        assert (off["enabled"], off["disabled_reason"]) == (False, "")
        assert refusal(api_client.post(f"{path}/test")) == (409, "endpoint_disabled", [])
        WebhookEndpoint.objects.for_organization(org).update(
            failing_since=timezone.now(), disabled_reason="Every attempt of 3 days failed.", is_notice_due=True
        )
        on = api_client.patch(path, {"enabled": True}, content_type=JSON).json()

        assert (on["enabled"], on["disabled_reason"], on["failing_since"]) == (True, "", None)
        assert not WebhookEndpoint.objects.for_organization(org).get().is_notice_due
        assert api_client.post(f"{path}/test").status_code == 202

    def test_deleting_takes_its_deliveries_along(self, api_client: Client, org: Organization) -> None:
        path = f"{ENDPOINTS}/{create(api_client)['id']}"
        kept = create(api_client)
        api_client.post(f"{path}/test")
        api_client.post(f"{ENDPOINTS}/{kept['id']}/test")

        assert api_client.delete(path).status_code == 204

        assert api_client.get(path).status_code == 404
        assert api_client.delete(path).status_code == 404
        assert [one["id"] for one in api_client.get(ENDPOINTS).json()["data"]] == [kept["id"]]
        assert [str(delivery.endpoint_id) for delivery in Delivery.objects.for_organization(org)] == [kept["id"]]

    def test_rotation_shows_the_new_secret_once(self, api_client: Client) -> None:
        created = create(api_client)

        rotated = api_client.post(f"{ENDPOINTS}/{created['id']}/rotate-secret").json()

        assert rotated["secret"].startswith("whsec_")
        assert rotated["secret"] != created["secret"]
        until = parse_datetime(rotated["previous_secret_until"])
        assert until is not None
        assert timedelta(hours=23, minutes=59) < until - timezone.now() <= timedelta(hours=24)

    def test_scope_and_binding(
        self, org: Organization, api_client: Client, api_client_for: Callable[..., Client]
    ) -> None:
        create(api_client)
        reader = api_client_for(factories.make_api_key(organization=org, scopes=(Scope.USAGE_READ,)))
        bound = api_client_for(
            factories.make_api_key(organization=org, customer=factories.make_customer(organization=org))
        )

        assert refusal(reader.get(ENDPOINTS)) == (403, "missing_scope", [])
        assert refusal(bound.get(ENDPOINTS)) == (403, "bound_key", [])

    def test_ids_beyond_all_numbers_are_absent(self, api_client: Client) -> None:
        endpoint = create(api_client)["id"]

        for path in (f"{ENDPOINTS}/{10**30}", f"{ENDPOINTS}/{endpoint}/deliveries/{10**30}"):
            assert api_client.get(path).status_code == 404


class TestDeliveries:
    def test_the_test_button_queues_a_sample(self, api_client: Client) -> None:
        endpoint = create(api_client, message_types=["alert.crossed"], description="x")

        response = api_client.post(f"{ENDPOINTS}/{endpoint['id']}/test")

        assert response.status_code == 202
        delivery = response.json()
        assert (
            delivery.items()
            >= {
                "type": "alert.test",
                "state": "pending",
                "attempt_count": 0,
                "settled_at": None,
            }.items()
        )
        assert delivery["message_id"].startswith("msg_")
        assert list(delivery["payload"]) == ["type", "timestamp", "data"]
        assert delivery["payload"]["data"]["customer"] == "sample_customer"

    def test_list_and_detail(self, api_client: Client, org: Organization) -> None:
        path = f"{ENDPOINTS}/{create(api_client)['id']}"
        first, second, third = (api_client.post(f"{path}/test").json()["id"] for _ in range(3))
        Delivery.objects.for_organization(org).filter(pk=second).update(
            state=DeliveryState.FAILED, settled_at=timezone.now()
        )
        DeliveryAttempt.objects.create(
            organization=org,
            delivery_id=second,
            attempted_at=timezone.now(),
            duration_ms=12,
            status_code=500,
            error="It answered 500.",
            answer="oops",
        )

        page = api_client.get(f"{path}/deliveries?limit=2").json()
        assert [one["id"] for one in page["data"]] == [third, second]
        rest = api_client.get(f"{path}/deliveries?limit=2&cursor={page['next_cursor']}").json()
        assert [one["id"] for one in rest["data"]] == [first]
        failed = api_client.get(f"{path}/deliveries?state=failed").json()["data"]
        assert [(one["id"], one["next_attempt_at"]) for one in failed] == [(second, None)]
        detail = api_client.get(f"{path}/deliveries/{second}").json()
        assert [(one["status_code"], one["error"], one["answer"]) for one in detail["attempts"]] == [
            (500, "It answered 500.", "oops")
        ]
        assert refusal(api_client.get(f"{path}/deliveries?state=lost")) == (422, "invalid", ["state"])

    def test_a_delivery_belongs_to_its_endpoint(self, api_client: Client) -> None:
        one, other = (f"{ENDPOINTS}/{create(api_client)['id']}" for _ in range(2))
        delivery = api_client.post(f"{one}/test").json()["id"]

        assert api_client.get(f"{one}/deliveries/{delivery}").status_code == 200
        assert api_client.get(f"{other}/deliveries/{delivery}").status_code == 404
        assert api_client.post(f"{other}/deliveries/{delivery}/replay").status_code == 404

    def test_replay_makes_a_settled_one_pending_under_the_same_id(self, api_client: Client, org: Organization) -> None:
        path = f"{ENDPOINTS}/{create(api_client)['id']}"
        sent = api_client.post(f"{path}/test").json()
        Delivery.objects.for_organization(org).update(state=DeliveryState.DELIVERED, settled_at=timezone.now())

        response = api_client.post(f"{path}/deliveries/{sent['id']}/replay")

        assert response.status_code == 202
        replayed = response.json()
        assert (replayed["message_id"], replayed["state"]) == (sent["message_id"], "pending")
        assert replayed["settled_at"] is None

    def test_replaying_what_is_being_sent_changes_nothing(self, api_client: Client, org: Organization) -> None:
        path = f"{ENDPOINTS}/{create(api_client)['id']}"
        sent = api_client.post(f"{path}/test").json()
        until = timezone.now() + timedelta(seconds=30)
        Delivery.objects.for_organization(org).update(leased_until=until, next_attempt_at=until)

        assert api_client.post(f"{path}/deliveries/{sent['id']}/replay").status_code == 202

        assert Delivery.objects.for_organization(org).get().leased_until == until

    def test_replay_to_a_disabled_endpoint_is_refused(self, api_client: Client) -> None:
        path = f"{ENDPOINTS}/{create(api_client)['id']}"
        sent = api_client.post(f"{path}/test").json()
        api_client.patch(path, {"enabled": False}, content_type=JSON)

        assert refusal(api_client.post(f"{path}/deliveries/{sent['id']}/replay")) == (409, "endpoint_disabled", [])

    def test_old_ones_are_pruned_with_their_attempts(self, api_client: Client, org: Organization) -> None:
        endpoint = create(api_client)["id"]
        old, young, pending = (api_client.post(f"{ENDPOINTS}/{endpoint}/test").json()["id"] for _ in range(3))
        now = timezone.now()
        for pk, age in ((old, timedelta(days=30, seconds=1)), (young, timedelta(days=29))):
            Delivery.objects.for_organization(org).filter(pk=pk).update(state="delivered", settled_at=now - age)
            DeliveryAttempt.objects.create(organization=org, delivery_id=pk, attempted_at=now, duration_ms=1)

        assert prune_deliveries(organization=org, now=now) == 1

        left = Delivery.objects.for_organization(org).order_by("pk").values_list("pk", flat=True)
        assert list(map(str, left)) == [young, pending]
        assert DeliveryAttempt.objects.for_organization(org).count() == 1

    def test_pruning_gives_up_on_what_a_disabled_endpoint_left(self, api_client: Client, org: Organization) -> None:
        path = f"{ENDPOINTS}/{create(api_client)['id']}"
        api_client.post(f"{path}/test")
        now = timezone.now()
        Delivery.objects.for_organization(org).update(leased_until=now - timedelta(seconds=1))
        WebhookEndpoint.objects.for_organization(org).update(disabled_at=now)

        prune_deliveries(organization=org, now=now)

        assert Delivery.objects.for_organization(org).get().state == "failed"


class TestMyEmails:
    PATH = "/v1/alert-emails/me"

    @pytest.fixture
    def browser(self, client_for: Callable[[User], Client], bob: User) -> Client:
        client = client_for(bob)
        client.raise_request_exception = False
        return client

    def test_a_viewer_may_subscribe_change_and_stop(self, browser: Client, bob: User) -> None:
        assert browser.get(self.PATH).status_code == 404

        first = browser.put(self.PATH, {"frequency": "daily"}, content_type=JSON)
        assert (first.status_code, first.json()["email"], first.json()["frequency"]) == (200, bob.email, "daily")
        again = browser.put(self.PATH, {"frequency": "soon"}, content_type=JSON)
        assert again.json() | {"frequency": "daily"} == first.json()
        assert browser.get(self.PATH).json() == again.json()
        assert browser.delete(self.PATH).status_code == 204
        assert browser.delete(self.PATH).status_code == 204
        assert browser.get(self.PATH).status_code == 404

    @pytest.mark.parametrize("method", ["get", "put", "delete"])
    def test_a_key_has_no_mail(self, api_client: Client, method: str) -> None:
        response = getattr(api_client, method)(self.PATH, {}, content_type=JSON)

        assert refusal(response) == (403, "members_only", [])

    def test_a_sample_can_be_asked_for(self, browser: Client, api_client: Client) -> None:
        assert browser.post(f"{self.PATH}/test", content_type=JSON).status_code == 202
        assert refusal(api_client.post(f"{self.PATH}/test")) == (403, "members_only", [])

    def test_unknown_frequency(self, browser: Client) -> None:
        response = browser.put(self.PATH, {"frequency": "yearly"}, content_type=JSON)

        assert refusal(response)[::2] == (422, ["frequency"])
