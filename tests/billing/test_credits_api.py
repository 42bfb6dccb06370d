"""The API of credits and commitments: what is answered, what is refused, and who sees whose."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization
from billing.models import BillingPeriod, Commitment, PeriodState, Subscription
from billing.queries.commitments import list_commitments_of
from billing.services.commitments import CommitmentOverlaps, TermIsBilled, create_commitment, end_commitment
from common.errors import InvalidInput
from tests.api.conftest import Api
from tests.billing.seller import Seller

pytestmark = pytest.mark.django_db

CREDIT = {"customer": "acme", "currency": "USD", "amount_minor": 5000}
OF_ACME = "/v1/billing/customers/acme/credits"


class TestCredits:
    @pytest.fixture(autouse=True)
    def _customers(self, seller: Seller) -> None:
        for name in ("acme", "bolt"):
            seller.customer(name)

    def test_grant_is_made_once_read_voided_and_told_of(self, api: Api) -> None:
        made = api.post("/v1/credits", CREDIT | {"name": "Welcome", "idempotency_key": "k"}, status=201)
        again = api.post("/v1/credits", CREDIT | {"name": "Welcome"}, **{"Idempotency-Key": "k"})

        assert made == again == api.get(f"/v1/credits/{made['id']}")
        assert (made["amount_minor"], made["remaining_minor"], made["kind"], made["priority"]) == (
            "5000",
            "5000",
            "prepaid",
            100,
        )
        reused = api.refuse("POST", "/v1/credits", CREDIT | {"idempotency_key": "k"})
        assert reused[:2] == (409, "idempotency_key_reused")
        voided = api.post(f"/v1/credits/{made['id']}/void")
        assert (voided["remaining_minor"], voided["voided_at"] is None) == ("0", False)
        assert api.post(f"/v1/credits/{made['id']}/void", {}) == voided
        told = api.get(OF_ACME)
        assert told["balances"] == [{"currency": "USD", "balance_minor": "0", "available_minor": "0"}]
        assert [(entry["kind"], entry["amount_minor"], entry["grant"]) for entry in told["data"]] == [
            ("voided", "-5000", made["id"]),
            ("granted", "5000", made["id"]),
        ]

    def test_lists_are_narrowed_and_cut_into_pages(self, api: Api) -> None:
        for customer, currency in (("acme", "USD"), ("acme", "EUR"), ("bolt", "USD")):
            api.post("/v1/credits", CREDIT | {"customer": customer, "currency": currency}, status=201)

        first = api.get("/v1/credits", limit=2)
        rest = api.get("/v1/credits", limit=2, cursor=first["next_cursor"])
        listed = [(row["customer"], row["currency"]) for row in first["data"] + rest["data"]]
        assert (listed, rest["next_cursor"]) == ([("acme", "USD"), ("acme", "EUR"), ("bolt", "USD")], None)
        assert len(api.get("/v1/credits", customer="acme")["data"]) == 2
        assert len(api.get("/v1/credits", customer="acme", currency="EUR")["data"]) == 1
        told = api.get(OF_ACME, limit=1)
        assert [balance["currency"] for balance in told["balances"]] == ["EUR", "USD"]
        assert [row["currency"] for row in api.get(OF_ACME, cursor=told["next_cursor"])["data"]] == ["USD"]

    def test_list_takes_as_many_queries_however_long_it_is(self, api: Api) -> None:
        counts = []
        for _ in range(2):
            api.post("/v1/credits", CREDIT, status=201)
            with CaptureQueriesContext(connection) as queries:
                api.get("/v1/credits")
                api.get(OF_ACME)
            counts.append(len(queries))

        assert counts[0] == counts[1]

    @pytest.mark.parametrize(
        ("change", "refusal"),
        [
            ({"customer": "nobody"}, (404, "not_found", [])),
            ({"currency": "usd"}, (422, "invalid_currency", ["currency"])),
            ({"amount_minor": 0}, (422, "invalid", ["amount_minor"])),
            ({"amount_minor": "1.5"}, (422, "invalid", ["amount_minor"])),
            ({"amount_minor": 10**14 + 1}, (422, "invalid", ["amount_minor"])),
            ({"kind": "carried_over"}, (422, "invalid", ["kind"])),
            ({"priority": 1001}, (422, "invalid", ["priority"])),
            ({"effective_at": "2026-01-01"}, (422, "invalid", ["effective_at"])),
            (
                {"effective_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T00:00:00Z"},
                (422, "invalid_combination", ["expires_at"]),
            ),
            ({"expires_at": "9999-01-01T00:00:00Z"}, (422, "out_of_range", ["expires_at"])),
            ({"idempotency_key": "\x00"}, (422, "invalid", ["idempotency_key"])),
            ({"note": "x"}, (422, "invalid", ["note"])),
        ],
        ids=lambda value: "_".join(f"{name}={value[name]}" for name in value) if isinstance(value, dict) else "",
    )
    def test_refusal_names_the_field(self, api: Api, change: dict[str, Any], refusal: tuple[Any, ...]) -> None:
        assert api.refuse("POST", "/v1/credits", CREDIT | change) == refusal
        assert api.get("/v1/credits")["data"] == []

    def test_who_sees_whose(
        self, api: Api, api_with: Callable[..., Api], seller: Seller, outsider_client: Client
    ) -> None:
        made = {
            name: api.post("/v1/credits", CREDIT | {"customer": name}, status=201)["id"] for name in ("acme", "bolt")
        }
        bound, metric_bound = (
            api_with("admin", customer=seller.customer("acme")),
            api_with("admin", metric_codes=("m",)),
        )
        outsider = Api(outsider_client)

        assert [row["id"] for row in bound.get("/v1/credits")["data"]] == [made["acme"]]
        assert bound.get(f"/v1/credits/{made['acme']}")["customer"] == "acme"
        assert len(bound.get(OF_ACME)["data"]) == 1
        for path in (f"/v1/credits/{made['bolt']}", OF_ACME.replace("acme", "bolt"), "/v1/credits?customer=bolt"):
            assert bound.refuse("GET", path)[0] == 404
        assert bound.refuse("POST", "/v1/credits", CREDIT)[:2] == (403, "bound_key")
        for path in ("/v1/credits", f"/v1/credits/{made['acme']}", OF_ACME):
            assert metric_bound.refuse("GET", path)[:2] == (403, "bound_key")
        assert outsider.get("/v1/credits")["data"] == []
        for method, path in (
            ("GET", f"/v1/credits/{made['acme']}"),
            ("POST", f"/v1/credits/{made['acme']}/void"),
            ("GET", f"/v1/credits/{2**70}"),
            ("GET", OF_ACME),
        ):
            assert outsider.refuse(method, path)[0] == 404
        assert api_with("billing:read").refuse("POST", f"/v1/credits/{made['acme']}/void")[:2] == (403, "missing_scope")


NOVEMBER, DECEMBER = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
JANUARY = datetime(2027, 1, 1, tzinfo=UTC)


class TestCommitments:
    """The subscription's periods are the months from October 2026 on; the seller's clock stands in November."""

    @pytest.fixture
    def subscription(self, seller: Seller) -> Subscription:
        seller.plan("pro")
        seller.plan("euro", currency="EUR")
        return seller.subscribe("acme", "pro", start=datetime(2026, 10, 1, tzinfo=UTC))

    def commit(self, subscription: Subscription, starts_at: datetime | None = None, **more: Any) -> Commitment:
        now = more.pop("now", datetime(2026, 11, 20, tzinfo=UTC))
        return create_commitment(
            subscription=subscription, amount_minor=100, starts_at=starts_at, actor="test", now=now, **more
        )

    def test_is_in_the_plans_currency_from_the_current_period_on(self, subscription: Subscription) -> None:
        made = self.commit(subscription, period_count=3)

        assert (made.currency, made.starts_at, made.period_count) == ("USD", NOVEMBER, 3)
        assert list_commitments_of([subscription.pk, 0], organization=subscription.organization_id) == {
            subscription.pk: [made]
        }
        subscription.refresh_from_db()
        assert subscription.revision == 1

    @pytest.mark.parametrize(
        ("starts_at", "more", "is_refused"),
        [
            (JANUARY, {}, True),
            (datetime(2027, 2, 1, tzinfo=UTC), {}, False),
            (NOVEMBER, {}, False),
            (NOVEMBER, {"period_count": 2}, True),
            (NOVEMBER, {"is_recurring": True}, True),
        ],
        ids=["in_the_last_period", "right_after", "right_before", "into_it", "recurring_into_it"],
    )
    def test_terms_do_not_overlap(
        self, subscription: Subscription, starts_at: datetime, more: dict[str, Any], is_refused: bool
    ) -> None:
        first = self.commit(subscription, DECEMBER, period_count=2)

        if is_refused:
            with pytest.raises(CommitmentOverlaps) as refusal:
                self.commit(subscription, starts_at, **more)
            assert refusal.value.extra == {"commitment": str(first.pk)}
        else:
            self.commit(subscription, starts_at, **more)

    @pytest.mark.parametrize("microseconds", [-1, 1])
    def test_starts_with_a_billing_period(self, subscription: Subscription, microseconds: int) -> None:
        with pytest.raises(InvalidInput, match="starts_at"):
            self.commit(subscription, DECEMBER + timedelta(microseconds=microseconds))

    def test_term_that_is_billed_is_refused(self, subscription: Subscription) -> None:
        october = BillingPeriod.objects.create(
            organization_id=subscription.organization_id,
            subscription=subscription,
            starts_at=subscription.starts_at,
            ends_at=NOVEMBER,
            state=PeriodState.GRACE,
            grace_ends_at=NOVEMBER,
        )
        self.commit(subscription, subscription.starts_at)
        Commitment.objects.all().delete()
        BillingPeriod.objects.filter(pk=october.pk).update(state=PeriodState.FINALISED)

        with pytest.raises(TermIsBilled):
            self.commit(subscription, subscription.starts_at)
        self.commit(subscription, subscription.starts_at, period_count=2)

    def test_ended_before_a_term_is_over_it_never_was(self, subscription: Subscription) -> None:
        made = self.commit(subscription, NOVEMBER, is_recurring=True)
        just_before = DECEMBER - timedelta(microseconds=1)

        assert end_commitment(commitment=made, actor="test", now=just_before) is None
        assert end_commitment(commitment=made, actor="test", now=just_before) is None
        assert not Commitment.objects.all().exists()
        self.commit(subscription, NOVEMBER)

    def test_ended_after_a_term_it_keeps_that_one_and_makes_room(self, subscription: Subscription) -> None:
        made = self.commit(subscription, NOVEMBER, is_recurring=True)

        ended = end_commitment(commitment=made, actor="test", now=DECEMBER)

        assert ended is not None
        assert ended.ended_at == DECEMBER
        with pytest.raises(CommitmentOverlaps):
            self.commit(subscription, NOVEMBER, now=DECEMBER)
        self.commit(subscription, DECEMBER, now=DECEMBER)

    def test_over_the_api(
        self, api: Api, api_with: Callable[..., Api], org: Organization, live_seller: Seller, outsider_client: Client
    ) -> None:
        live_seller.plan("pro")
        start = live_seller.now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        path = f"/v1/subscriptions/{live_seller.subscribe('acme', 'pro', start=start).pk}/commitments"

        made = api.post(path, {"amount_minor": "50000", "is_recurring": True}, status=201)

        assert (made["amount_minor"], made["currency"], made["period_count"]) == ("50000", "USD", 1)
        assert api.get(path)["data"] == [made]
        assert api.refuse("POST", path, {"amount_minor": 1})[:2] == (409, "commitment_overlaps")
        for body, field in (
            ({}, "amount_minor"),
            ({"amount_minor": 0}, "amount_minor"),
            ({"amount_minor": 1, "period_count": 121}, "period_count"),
            ({"amount_minor": 1, "starts_at": "2099-01-01T00:00:00Z"}, "starts_at"),
            ({"amount_minor": 1, "starts_at": "1970-01-01T00:00:00Z"}, "starts_at"),
        ):
            assert api.refuse("POST", path, body)[::2] == (422, [field])
        bound = api_with("admin", customer=live_seller.customer("acme"))
        assert bound.get(path)["data"] == [made]
        assert bound.refuse("DELETE", f"{path}/{made['id']}")[:2] == (403, "bound_key")
        assert api_with("admin", customer=live_seller.customer("bolt")).refuse("GET", path)[0] == 404
        outsider = Api(outsider_client)
        assert outsider.refuse("POST", path, {"amount_minor": 1})[0] == 404
        for method, each in (("GET", path), ("DELETE", f"{path}/{made['id']}")):
            assert outsider.refuse(method, each)[0] == 404
        assert api.refuse("DELETE", f"{path}/{2**70}")[0] == 404
        assert api.call("DELETE", f"{path}/{made['id']}").status_code == 204
        assert api.refuse("DELETE", f"{path}/{made['id']}")[0] == 404
