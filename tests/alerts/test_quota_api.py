"""Quotas over HTTP: shapes, codes, headers, and what bound keys may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from accounts.models import AuditEntry, Customer, Organization
from accounts.services import IssuedKey
from alerts.models import Reservation
from common.numbers import exact_text
from tests import factories
from tests.alerts.gate import Gate
from tests.api.conftest import Api

pytestmark = pytest.mark.django_db

CHECK = {"customer": "ann", "metric": "m", "amount": "1"}


@pytest.fixture
def gate(org: Organization) -> Gate:
    """Ann and bob have used 8 of a metric that allows 10, on the real clock."""
    gate = Gate(org, timezone.now())
    gate.define("m", "sum", dimensions=["region"])
    gate.define("other", "sum")
    gate.send_all(*({"customer": name, "type": "m", "value": 8} for name in ("ann", "bob")))
    gate.limit(10)
    return gate


@pytest.fixture
def api(api_client: Client, gate: Gate) -> Api:
    """A caller with every scope."""
    return Api(api_client)


@pytest.fixture
def api_with(org: Organization, gate: Gate, api_client_for: Callable[[IssuedKey | str], Client]) -> Callable[..., Api]:
    """Return a maker of callers whose key has these scopes and bounds."""

    def make(*scopes: str, **bounds: Any) -> Api:
        return Api(api_client_for(factories.make_api_key(organization=org, scopes=scopes, **bounds)))

    return make


def quota_headers(response: HttpResponse) -> dict[str, str]:
    return {name: value for name, value in response.items() if name.startswith("X-Quota-")}


class TestSettings:
    def test_a_quota_is_made_read_changed_listed_and_deleted(self, api: Api, gate: Gate) -> None:
        body = {"metric": "m", "customer": "ann", "limit": "1e3", "mode": "soft", "grace": 5, "warning_percents": [90]}
        made = api.post("/v1/quotas", body, status=201)

        assert {name: made[name] for name in body} == {**body, "limit": "1000", "grace": "5"}
        path = f"/v1/quotas/{made['id']}"
        assert api.get(path) == made
        changed = api.call("PATCH", path, {"limit": None, "grace": "0.50"}).json()
        assert changed == {**made, "limit": None, "grace": "0.5"}
        assert [row["customer"] for row in api.get("/v1/quotas", metric="m")["data"]] == [None, "ann"]
        assert api.get("/v1/quotas", customer="ann")["data"] == [changed]
        assert api.get("/v1/quotas", metric="other")["data"] == []
        assert api.call("DELETE", path).status_code == 204
        assert api.refuse("GET", path)[:2] == (404, "not_found")
        actions = AuditEntry.objects.for_organization(gate.organization).filter(target="m of ann")
        assert sorted(actions.values_list("action", flat=True)) == ["quota.created", "quota.deleted", "quota.updated"]

    def test_the_defaults_are_hard_and_warn_at_80_95_and_100_percent(self, api: Api) -> None:
        made = api.post("/v1/quotas", {"metric": "other", "limit": 10}, status=201)

        assert (made["customer"], made["mode"], made["grace"], made["warning_percents"]) == (
            None,
            "hard",
            "0",
            [80, 95, 100],
        )
        listed = api.get("/v1/thresholds", metric="other")["data"]
        assert [(row["code"], row["value"], row["origin"]) for row in listed] == [
            ("quota_80", "8", "quota"),
            ("quota_95", "9.5", "quota"),
            ("quota_100", "10", "quota"),
        ]

    @pytest.mark.parametrize(
        ("body", "status", "code", "field"),
        [
            ({}, 422, "invalid", "limit"),
            ({"limit": -1}, 422, "invalid", "limit"),
            ({"limit": "1_000"}, 422, "invalid", "limit"),
            ({"limit": True}, 422, "invalid", "limit"),
            ({"limit": "1e40"}, 422, "invalid", "limit"),
            ({"limit": 1, "mode": "brutal"}, 422, "invalid", "mode"),
            ({"limit": 1, "grace": -1}, 422, "invalid", "grace"),
            ({"limit": 1, "grace": None}, 422, "invalid", "grace"),
            ({"limit": 1, "grace": 1}, 422, "invalid_combination", "grace"),
            ({"limit": 1, "warning_percents": [0]}, 422, "invalid", "warning_percents[0]"),
            ({"limit": 1, "warning_percents": [80.5]}, 422, "invalid", "warning_percents[0]"),
            ({"limit": 1, "warning_percents": 80}, 422, "invalid", "warning_percents"),
            ({"limit": 1, "warning_percents": list(range(1, 10))}, 422, "invalid", "warning_percents"),
            ({"limit": 1, "grase": 1}, 422, "invalid", "grase"),
            ({"limit": 1, "metric": "absent"}, 404, "not_found", None),
            ({"limit": 1, "customer": "absent"}, 404, "not_found", None),
            ({"limit": 1, "customer": "a\x00b"}, 422, "invalid", "customer"),
            ({"limit": 1, "metric": "m"}, 409, "already_exists", None),
        ],
    )
    def test_bad_settings_are_refused_by_name(
        self, api: Api, body: dict[str, Any], status: int, code: str, field: str | None
    ) -> None:
        refused = api.refuse("POST", "/v1/quotas", {"metric": "other", **body})

        assert refused == (status, code, [field] if field else [])

    def test_metric_and_customer_stay_as_they_are(self, api: Api) -> None:
        [quota] = api.get("/v1/quotas")["data"]

        for name in ("metric", "customer"):
            assert api.refuse("PATCH", f"/v1/quotas/{quota['id']}", {name: "other"})[::2] == (422, [name])

    def test_an_id_beyond_every_id_is_absent(self, api: Api) -> None:
        assert api.refuse("GET", f"/v1/quotas/{10**30}")[:2] == (404, "not_found")

    def test_writing_needs_the_scope_and_a_key_without_bounds(self, api_with: Callable[..., Api]) -> None:
        reader = api_with("usage:read")
        bound = api_with("metrics:write", "usage:read", metric_codes=("m",))
        [quota] = reader.get("/v1/quotas")["data"]

        for method, path in (("POST", "/v1/quotas"), ("PATCH", f"/v1/quotas/{quota['id']}")):
            assert reader.refuse(method, path, {"limit": 5})[:2] == (403, "missing_scope")
            assert bound.refuse(method, path, {"limit": 5})[:2] == (403, "bound_key")
        assert bound.refuse("GET", "/v1/quotas")[:2] == (403, "bound_key")


class TestCheck:
    @pytest.mark.parametrize(("amount", "is_allowed"), [("0", True), ("2", True), ("2.000000000000000001", False)])
    def test_the_answer_and_its_headers_say_the_same(self, api: Api, gate: Gate, amount: str, is_allowed: bool) -> None:
        response = api.call("POST", "/v1/quota/check", {**CHECK, "amount": amount})

        assert response.status_code == 200
        answer = response.json()
        reset_at = answer.pop("reset_at")
        assert answer == {"allowed": is_allowed, "limit": "10", "used": "8", "remaining": "2", "level": "warning"}
        period = api.get("/v1/usage/realtime", metric="m", customer="ann")["period"]
        assert reset_at == period["end"]
        headers = quota_headers(response)
        assert int(headers.pop("X-Quota-Reset")) == timezone.datetime.fromisoformat(reset_at).timestamp()
        assert headers == {"X-Quota-Limit": "10", "X-Quota-Used": "8", "X-Quota-Remaining": "2"}

    def test_without_a_quota_it_is_unlimited(self, api: Api) -> None:
        response = api.call("POST", "/v1/quota/check", {**CHECK, "metric": "other"})

        answer = response.json()
        assert (answer["allowed"], answer["limit"], answer["remaining"], answer["level"]) == (True, None, None, "ok")
        headers = quota_headers(response)
        assert (headers["X-Quota-Limit"], headers["X-Quota-Remaining"]) == ("unlimited", "unlimited")

    def test_it_holds_nothing(self, api: Api) -> None:
        for _ in range(2):
            assert api.post("/v1/quota/check", {**CHECK, "amount": 2})["allowed"]

        assert Reservation.objects.all_tenants().count() == 0

    def test_a_customer_never_seen_is_not_created_by_asking(self, api: Api, gate: Gate) -> None:
        answer = api.post("/v1/quota/check", {**CHECK, "customer": "new"})

        assert (answer["allowed"], answer["used"]) == (True, "0")
        assert not Customer.objects.for_organization(gate.organization).filter(external_id="new").exists()

    def test_where_customers_are_made_by_hand_an_unknown_one_is_absent(self, api: Api, gate: Gate) -> None:
        gate.organization.is_customer_auto_created = False
        gate.organization.save()

        for path in ("/v1/quota/check", "/v1/quota/reserve"):
            assert api.refuse("POST", path, {**CHECK, "customer": "new"})[:2] == (404, "not_found")

    @pytest.mark.parametrize("path", ["/v1/quota/check", "/v1/quota/reserve"])
    @pytest.mark.parametrize(
        ("body", "status", "field"),
        [
            ({"metric": "absent"}, 404, None),
            ({"metric": "absent", "customer": "new"}, 404, None),
            ({"metric": 1}, 422, "metric"),
            ({"customer": ""}, 422, "customer"),
            ({"customer": "x" * 257}, 422, "customer"),
            ({"customer": "a\x00b"}, 422, "customer"),
            ({"amount": -1}, 422, "amount"),
            ({"amount": "NaN"}, 422, "amount"),
            ({"amount": None}, 422, "amount"),
            ({"amount": "1" * 49}, 422, "amount"),
            ({"what": 1}, 422, "what"),
        ],
    )
    def test_bad_questions_are_refused_by_name(
        self, api: Api, path: str, body: dict[str, Any], status: int, field: str | None
    ) -> None:
        refused = api.refuse("POST", path, {**CHECK, **body})

        assert (refused[0], refused[2]) == (status, [field] if field else [])

    def test_everything_is_asked_for(self, api: Api) -> None:
        assert api.refuse("POST", "/v1/quota/check", {})[::2] == (422, ["customer", "metric", "amount"])


class TestReservations:
    def test_from_reserving_to_usage(self, api: Api) -> None:
        response = api.call("POST", "/v1/quota/reserve", {**CHECK, "amount": "1.50", "ttl_seconds": 600})

        assert response.status_code == 201
        reservation = response.json()
        quota = reservation["quota"]
        assert (quota["allowed"], quota["used"], quota["remaining"], quota["level"]) == (True, "9.5", "0.5", "warning")
        assert (reservation["customer"], reservation["metric"], reservation["amount"], reservation["state"]) == (
            "ann",
            "m",
            "1.5",
            "open",
        )
        assert quota_headers(response)["X-Quota-Remaining"] == "0.5"
        body = {"amount": 1, "properties": {"region": "eu"}}
        path = f"/v1/quota/reservations/{reservation['id']}/commit"
        response = api.call("POST", path, body)
        committed = response.json()
        assert (response.status_code, committed["state"], committed["committed_amount"]) == (200, "committed", "1")
        assert (committed["quota"]["used"], quota_headers(response)["X-Quota-Used"]) == ("9", "9")
        assert api.post(path, body) == committed
        event = api.get(f"/v1/events/reservation:{reservation['id']}")
        assert (event["customer"], event["value"], event["properties"]) == ("ann", "1", {"region": "eu"})
        assert api.get("/v1/usage/realtime", metric="m", customer="ann")["value"] == "9"

    def test_over_the_quota_is_402_with_the_check_and_the_headers(self, api: Api) -> None:
        response = api.call("POST", "/v1/quota/reserve", {**CHECK, "amount": "2.5"})

        answer = response.json()
        assert (response.status_code, answer["code"], answer["errors"]) == (402, "quota_exceeded", [])
        reset_at = answer["quota"].pop("reset_at")
        assert answer["quota"] == {
            "allowed": False,
            "limit": "10",
            "used": "8",
            "remaining": "2",
            "level": "warning",
        }
        assert quota_headers(response) == {
            "X-Quota-Limit": "10",
            "X-Quota-Used": "8",
            "X-Quota-Remaining": "2",
            "X-Quota-Reset": str(int(timezone.datetime.fromisoformat(reset_at).timestamp())),
        }

    def test_it_is_given_for_a_minute_unless_said_otherwise(self, api: Api) -> None:
        api.post("/v1/quota/reserve", CHECK, status=201)
        api.post("/v1/quota/reserve", {**CHECK, "ttl_seconds": 86_400}, status=201)

        lasting = [one.expires_at - one.created_at for one in Reservation.objects.all_tenants().order_by("pk")]
        assert [one.total_seconds() for one in lasting] == [60, 86_400]

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"ttl_seconds": 0}, "ttl_seconds"),
            ({"ttl_seconds": 86_401}, "ttl_seconds"),
            ({"ttl_seconds": None}, "ttl_seconds"),
            ({"idempotency_key": ""}, "idempotency_key"),
            ({"idempotency_key": "x" * 257}, "idempotency_key"),
            ({"idempotency_key": "a\x00b"}, "idempotency_key"),
            ({"amount": 0}, "amount"),
        ],
    )
    def test_bad_reservations_are_refused_by_name(self, api: Api, body: dict[str, Any], field: str) -> None:
        assert api.refuse("POST", "/v1/quota/reserve", {**CHECK, **body})[::2] == (422, [field])

    def test_a_metric_that_cannot_be_reserved_says_so(self, api: Api, gate: Gate) -> None:
        gate.define("seats", "count_unique")

        refused = api.refuse("POST", "/v1/quota/reserve", {**CHECK, "metric": "seats"})

        assert refused == (422, "not_reservable", ["metric"])
        assert api.post("/v1/quota/check", {**CHECK, "metric": "seats"})["allowed"]

    def test_a_customer_never_seen_is_created_as_an_event_would(self, api: Api, gate: Gate) -> None:
        reservation = api.post("/v1/quota/reserve", {**CHECK, "customer": "new", "amount": 10}, status=201)

        assert reservation["quota"]["used"] == "10"
        assert Customer.objects.for_organization(gate.organization).filter(external_id="new").exists()

    def test_repeated_under_its_key_it_is_the_same(self, api: Api) -> None:
        body = {**CHECK, "idempotency_key": "job 1"}
        first = api.post("/v1/quota/reserve", body, status=201)

        assert api.post("/v1/quota/reserve", body, status=200) == first
        assert api.refuse("POST", "/v1/quota/reserve", {**body, "amount": 2})[:2] == (409, "conflict")

    def test_released_it_is_free_again(self, api: Api) -> None:
        reservation = api.post("/v1/quota/reserve", {**CHECK, "amount": 2}, status=201)
        path = f"/v1/quota/reservations/{reservation['id']}"

        response = api.call("POST", f"{path}/release")

        assert (response.json()["state"], response.json()["quota"]["used"]) == ("released", "8")
        assert quota_headers(response)["X-Quota-Remaining"] == "2"
        assert api.post(f"{path}/release", {}) == response.json()
        assert api.refuse("POST", f"{path}/commit", {})[:2] == (409, "already_released")

    def test_committed_it_cannot_be_released(self, api: Api) -> None:
        reservation = api.post("/v1/quota/reserve", CHECK, status=201)
        path = f"/v1/quota/reservations/{reservation['id']}"
        api.post(f"{path}/commit", {})

        assert api.refuse("POST", f"{path}/release")[:2] == (409, "already_committed")

    def test_expired_it_says_so_and_is_refused_where_the_room_is_gone(self, api: Api) -> None:
        reservation = api.post("/v1/quota/reserve", {**CHECK, "amount": 2, "idempotency_key": "job"}, status=201)
        Reservation.objects.all_tenants().update(expires_at=timezone.now())
        api.post("/v1/quota/reserve", CHECK, status=201)

        refused = api.refuse("POST", f"/v1/quota/reservations/{reservation['id']}/commit", {})

        assert refused[:2] == (409, "reservation_expired")

    @pytest.mark.parametrize(
        ("body", "code", "field"),
        [
            ({"amount": 2}, "exceeds_reservation", "amount"),
            ({"amount": 0}, "invalid_value", "amount"),
            ({"amount": "x"}, "invalid", "amount"),
            ({"properties": []}, "invalid", "properties"),
            ({"properties": {"deep": {}}}, "invalid_property", "properties.deep"),
            ({"properties": {str(n): n for n in range(65)}}, "invalid_property", "properties"),
            ({"timestamp": "2026-11-20T10:00:00"}, "invalid", "timestamp"),
            ({"timestamp": 4_102_444_800}, "timestamp_in_future", "timestamp"),
            ({"value": 1}, "invalid", "value"),
        ],
    )
    def test_bad_commits_are_refused_by_name(self, api: Api, body: dict[str, Any], code: str, field: str) -> None:
        reservation = api.post("/v1/quota/reserve", CHECK, status=201)

        refused = api.refuse("POST", f"/v1/quota/reservations/{reservation['id']}/commit", body)

        assert refused == (422, code, [field])
        assert Reservation.objects.all_tenants().get().state == "open"

    def test_a_body_that_says_something_releases_nothing(self, api: Api) -> None:
        reservation = api.post("/v1/quota/reserve", CHECK, status=201)

        refused = api.refuse("POST", f"/v1/quota/reservations/{reservation['id']}/release", {"amount": 1})

        assert refused[::2] == (422, ["amount"])

    @pytest.mark.parametrize("reservation_id", ["res_absent", "%00", "x" * 300])
    def test_an_absent_reservation_is_404(self, api: Api, reservation_id: str) -> None:
        for verb in ("commit", "release"):
            assert api.refuse("POST", f"/v1/quota/reservations/{reservation_id}/{verb}", {})[:2] == (404, "not_found")

    def test_a_foreign_reservation_is_404(self, api: Api, outsider_client: Client) -> None:
        reservation = api.post("/v1/quota/reserve", CHECK, status=201)

        for verb in ("commit", "release"):
            refused = Api(outsider_client).refuse("POST", f"/v1/quota/reservations/{reservation['id']}/{verb}", {})
            assert refused[:2] == (404, "not_found")
        assert Reservation.objects.all_tenants().get().state == "open"


class TestKeys:
    @pytest.mark.parametrize(
        ("path", "needed", "others"),
        [
            ("/v1/quota/check", "usage:read", ["events:write", "metrics:write", "billing:write"]),
            ("/v1/quota/reserve", "events:write", ["usage:read", "metrics:write", "billing:write"]),
            ("/v1/quota/reservations/res_x/commit", "events:write", ["usage:read"]),
            ("/v1/quota/reservations/res_x/release", "events:write", ["usage:read"]),
        ],
    )
    def test_each_needs_its_scope(
        self, api_with: Callable[..., Api], path: str, needed: str, others: list[str]
    ) -> None:
        assert api_with(*others).refuse("POST", path, CHECK)[:2] == (403, "missing_scope")
        body = None if path.endswith("release") else CHECK
        assert api_with(needed).call("POST", path, body).status_code in {200, 201, 404}

    def test_bound_to_a_customer_it_asks_and_takes_for_that_one_alone(
        self, api_with: Callable[..., Api], gate: Gate
    ) -> None:
        ann = api_with("events:write", "usage:read", customer=gate.customer("ann"))

        assert ann.post("/v1/quota/check", CHECK)["used"] == "8"
        reservation = ann.post("/v1/quota/reserve", CHECK, status=201)
        assert ann.post(f"/v1/quota/reservations/{reservation['id']}/commit", {})["state"] == "committed"
        for customer in ("bob", "new"):
            for path in ("/v1/quota/check", "/v1/quota/reserve"):
                assert ann.refuse("POST", path, {**CHECK, "customer": customer})[:2] == (404, "not_found")

    def test_bound_to_metrics_it_asks_and_takes_of_those_alone(self, api_with: Callable[..., Api]) -> None:
        of_metric = api_with("events:write", "usage:read", metric_codes=("m",))

        assert of_metric.post("/v1/quota/check", CHECK)["used"] == "8"
        reservation = of_metric.post("/v1/quota/reserve", CHECK, status=201)
        assert of_metric.post(f"/v1/quota/reservations/{reservation['id']}/release", {})["state"] == "released"
        for customer in ("ann", "new"):
            for path in ("/v1/quota/check", "/v1/quota/reserve"):
                refused = of_metric.refuse("POST", path, {**CHECK, "metric": "other", "customer": customer})
                assert refused[:2] == (404, "not_found")

    def test_others_reservations_are_absent_to_bound_keys(
        self, api: Api, api_with: Callable[..., Api], gate: Gate
    ) -> None:
        bobs = api.post("/v1/quota/reserve", {**CHECK, "customer": "bob"}, status=201)["id"]
        others = api.post("/v1/quota/reserve", {**CHECK, "metric": "other"}, status=201)["id"]
        ann = api_with("events:write", customer=gate.customer("ann"))
        of_metric = api_with("events:write", metric_codes=("m",))

        for verb in ("commit", "release"):
            assert ann.refuse("POST", f"/v1/quota/reservations/{bobs}/{verb}", {})[:2] == (404, "not_found")
            assert of_metric.refuse("POST", f"/v1/quota/reservations/{others}/{verb}", {})[:2] == (404, "not_found")
        amounts = Reservation.objects.all_tenants().filter(state="open").values_list("amount", flat=True)
        assert [exact_text(amount) for amount in amounts] == ["1", "1"]
