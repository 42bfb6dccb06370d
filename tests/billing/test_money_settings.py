"""How an organization invoices, whom, and under which taxes: settings, profiles and the rate table, over the API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import AuditEntry, Organization
from billing.domain.taxes import TaxRule, applicable_rules
from billing.models import BillingProfile, CreditGrant, Invoice, NumberSeries
from billing.queries.profiles import list_profiles
from billing.queries.settings import get_settings
from billing.queries.tax_rates import list_tax_rules
from metering.services.erasure import erase_customer
from tests import factories
from tests.api.conftest import Api
from tests.billing.invoices import FEE, store_invoice
from tests.billing.seller import Seller

pytestmark = pytest.mark.django_db

SETTINGS = "/v1/billing/settings"
VAT = {"code": "de-vat", "name": "VAT", "percent": "19", "country": "DE"}
PROFILE = {
    "name": "Acme GmbH",
    "email": "pay@acme.test",
    "address": "1 High Street\nBerlin",
    "country": "DE",
    "region": "BE",
    "tax_id": "DE1",
    "is_tax_exempt": True,
}


def audited(organization: Organization, action: str) -> list[tuple[str, dict[str, Any]]]:
    entries = AuditEntry.objects.for_organization(organization).filter(action=action).order_by("pk")
    return list(entries.values_list("target", "details"))


class TestSettings:
    def test_defaults_hold_until_something_is_changed(self, api: Api, org: Organization) -> None:
        before = api.get(SETTINGS)
        assert (before["grace_hours"], before["payment_days"], before["adjustment_days"]) == (24, 14, 92)
        assert (before["invoice_prefix"], before["credit_note_prefix"], before["is_mailed"]) == ("INV-", "CN-", False)

        changed = api.call("PATCH", SETTINGS, {"grace_hours": 0, "seller_name": "Initech", "is_mailed": True})

        assert changed.json() == before | {"grace_hours": 0, "seller_name": "Initech", "is_mailed": True}
        assert api.get(SETTINGS) == changed.json()
        assert get_settings(org).grace_hours == 0
        api.call("PATCH", SETTINGS, {"grace_hours": 0})
        [(_, details)] = audited(org, "billing_settings.changed")
        assert details["grace_hours"] == {"from": 24, "to": 0}

    @pytest.mark.parametrize(
        ("change", "field", "code"),
        [
            ({"grace_hours": 721}, "grace_hours", "max_value"),
            ({"grace_hours": -1}, "grace_hours", "min_value"),
            ({"payment_days": 366}, "payment_days", "max_value"),
            ({"adjustment_days": 733}, "adjustment_days", "max_value"),
            ({"invoice_prefix": "R 1"}, "invoice_prefix", "invalid_prefix"),
            ({"invoice_prefix": "R" * 17}, "invoice_prefix", "max_length"),
            ({"invoice_prefix": "CN-"}, "invoice_prefix", "prefix_in_use"),
            ({"credit_note_prefix": "INV-7"}, "credit_note_prefix", "prefix_in_use"),
            ({"invoice_prefix": "OLD-2"}, "invoice_prefix", "prefix_in_use"),
            ({"footer": "\x00"}, "footer", "null_characters_not_allowed"),
            ({"is_mailed": "yes"}, "is_mailed", "invalid"),
            ({"currency": "EUR"}, "currency", "unknown_field"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_refusal_names_the_field(
        self, api: Api, org: Organization, change: dict[str, Any], field: str, code: str
    ) -> None:
        NumberSeries.objects.create(organization=org, prefix="OLD-", last_serial=3)

        response = api.call("PATCH", SETTINGS, change)

        [error] = response.json()["errors"]
        assert (response.status_code, error["field"], error["code"]) == (422, field, code)
        assert audited(org, "billing_settings.changed") == []

    def test_prefixes_may_be_empty_end_in_digits_and_come_back(self, api: Api, org: Organization) -> None:
        NumberSeries.objects.create(organization=org, prefix="INV-", last_serial=3)

        for prefix in ("2026/", "", "INV-"):
            assert api.call("PATCH", SETTINGS, {"invoice_prefix": prefix}).json()["invoice_prefix"] == prefix

    def test_reader_may_not_change_and_bound_key_not_read(
        self, api_with: Callable[..., Api], org: Organization
    ) -> None:
        assert api_with("billing:read").refuse("PATCH", SETTINGS, {})[:2] == (403, "missing_scope")
        bound = api_with("admin", customer=factories.make_customer(organization=org))
        assert bound.refuse("GET", SETTINGS)[:2] == (403, "bound_key")
        assert bound.refuse("GET", "/v1/tax-rates")[:2] == (403, "bound_key")


class TestTaxRates:
    def test_rate_is_made_read_listed_and_archived(self, api: Api, outsider_client: Client) -> None:
        made = api.post("/v1/tax-rates", VAT | {"percent": "7.123456"}, status=201)

        assert (made["percent"], made["country"], made["valid_from"]) == ("7.123456", "DE", None)
        assert api.get("/v1/tax-rates/de-vat") == made
        assert api.get("/v1/tax-rates", country="DE")["data"] == [made]
        assert api.get("/v1/tax-rates", country="FR")["data"] == []
        assert Api(outsider_client).refuse("GET", "/v1/tax-rates/de-vat")[0] == 404
        assert Api(outsider_client).refuse("DELETE", "/v1/tax-rates/de-vat")[0] == 404
        assert api.call("DELETE", "/v1/tax-rates/de-vat").json()["archived_at"] is not None
        assert api.refuse("DELETE", "/v1/tax-rates/de-vat")[0] == 404
        assert api.get("/v1/tax-rates")["data"] == []
        api.post("/v1/tax-rates", VAT, status=201)

    @pytest.mark.parametrize(
        ("change", "field", "code"),
        [
            ({"code": "DE VAT"}, "code", "invalid_code"),
            ({"percent": "100.000001"}, "percent", "max_value"),
            ({"percent": -1}, "percent", "min_value"),
            ({"percent": "1.1234567"}, "percent", "max_decimal_places"),
            ({"percent": "NaN"}, "percent", "invalid"),
            ({"country": "de"}, "country", "invalid_country"),
            ({"country": "", "region": "BE"}, "region", "invalid_combination"),
            ({"valid_from": "soon"}, "valid_from", "invalid"),
            ({"valid_until": "9999-12-31"}, "valid_until", "out_of_range"),
            ({"valid_from": "2026-01-02", "valid_until": "2026-01-01"}, "valid_until", "invalid_combination"),
            ({"replaces": "de-old"}, "valid_from", "required"),
            ({"replaces": "de-old", "valid_from": "2026-01-01", "country": "FR"}, "replaces", "invalid_combination"),
            ({"replaces": "de-old", "valid_from": "2020-01-01"}, "valid_from", "invalid_combination"),
            ({"replaces": "de-old", "valid_from": "2030-01-01"}, "replaces", "invalid_combination"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_refusal_names_the_field(self, api: Api, change: dict[str, Any], field: str, code: str) -> None:
        old = {"code": "de-old", "valid_from": "2020-01-01", "valid_until": "2029-12-31"}
        api.post("/v1/tax-rates", VAT | old, status=201)

        response = api.call("POST", "/v1/tax-rates", VAT | change)

        [error] = response.json()["errors"]
        assert (response.status_code, error["field"], error["code"]) == (422, field, code)
        assert len(api.get("/v1/tax-rates")["data"]) == 1

    def test_code_is_one_rates_at_a_time(self, api: Api) -> None:
        api.post("/v1/tax-rates", VAT, status=201)

        assert api.refuse("POST", "/v1/tax-rates", VAT)[:2] == (409, "already_exists")
        assert api.refuse("POST", "/v1/tax-rates", VAT | {"code": "x", "replaces": "none"})[:2] == (404, "not_found")

    def test_another_rate_takes_its_place_from_a_day_on(self, api: Api, org: Organization) -> None:
        api.post("/v1/tax-rates", VAT, status=201)
        change = {"code": "de-vat-27", "percent": "20.5", "valid_from": "2027-01-01", "replaces": "de-vat"}
        api.post("/v1/tax-rates", VAT | change, status=201)

        rules = list_tax_rules(org)

        assert rules == [
            TaxRule("de-vat", "VAT", Decimal("19"), "DE", "", None, date(2026, 12, 31)),
            TaxRule("de-vat-27", "VAT", Decimal("20.5"), "DE", "", date(2027, 1, 1), None),
        ]
        for day, codes in {date(2026, 12, 31): ["de-vat"], date(2027, 1, 1): ["de-vat-27"]}.items():
            assert [rule.code for rule in applicable_rules(rules, country="DE", region="", on=day)] == codes
        assert api.get("/v1/tax-rates/de-vat")["valid_until"] == "2026-12-31"


class TestProfiles:
    def test_customer_without_one_has_empty_fields(self, api: Api, org: Organization) -> None:
        factories.make_customer(organization=org, external_id="a/credits")
        path = "/v1/billing/customers/a/credits/profile"

        empty = api.get(path)
        assert empty == dict.fromkeys(PROFILE, "") | {"customer": "a/credits", "is_tax_exempt": False}
        written = api.call("PUT", path, PROFILE).json()
        assert written == PROFILE | {"customer": "a/credits"} == api.get(path)
        # As a whole: what is not said is empty.
        assert api.call("PUT", path, {"country": "FR"}).json() == empty | {"country": "FR"}
        assert [target for target, _ in audited(org, "billing_profile.changed")] == ["a/credits"] * 2
        assert "acme" not in str(audited(org, "billing_profile.changed"))

    @pytest.mark.parametrize(
        ("change", "field", "code"),
        [
            ({"email": "nobody"}, "email", "invalid"),
            ({"email": 5}, "email", "invalid"),
            ({"country": "Germany"}, "country", "max_length"),
            ({"country": "d1"}, "country", "invalid_country"),
            ({"country": ""}, "region", "invalid_combination"),
            ({"address": "x" * 1001}, "address", "max_length"),
            ({"is_tax_exempt": 1}, "is_tax_exempt", "invalid"),
            ({"iban": "1"}, "iban", "unknown_field"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_refusal_names_the_field(
        self, api: Api, org: Organization, change: dict[str, Any], field: str, code: str
    ) -> None:
        factories.make_customer(organization=org, external_id="acme")

        response = api.call("PUT", "/v1/billing/customers/acme/profile", PROFILE | change)

        [error] = response.json()["errors"]
        assert (response.status_code, error["field"], error["code"]) == (422, field, code)
        assert not BillingProfile.objects.for_organization(org).exists()

    def test_who_sees_whose(
        self, api: Api, api_with: Callable[..., Api], org: Organization, outsider_client: Client
    ) -> None:
        acme, bolt = (factories.make_customer(organization=org, external_id=name) for name in ("acme", "bolt"))
        for name in ("acme", "bolt"):
            api.call("PUT", f"/v1/billing/customers/{name}/profile", PROFILE | {"name": name})
        bound, metric_bound = api_with("admin", customer=acme), api_with("admin", metric_codes=("calls",))

        assert bound.get("/v1/billing/customers/acme/profile")["name"] == "acme"
        assert bound.refuse("GET", "/v1/billing/customers/bolt/profile")[0] == 404
        assert bound.refuse("PUT", "/v1/billing/customers/acme/profile", PROFILE)[:2] == (403, "bound_key")
        assert metric_bound.refuse("GET", "/v1/billing/customers/acme/profile")[:2] == (403, "bound_key")
        assert api_with("billing:read").refuse("PUT", "/v1/billing/customers/acme/profile", {})[0] == 403
        for method, body in (("GET", None), ("PUT", PROFILE)):
            assert Api(outsider_client).refuse(method, "/v1/billing/customers/acme/profile", body)[0] == 404
        assert {pk: each.name for pk, each in list_profiles(org, [acme.pk, bolt.pk]).items()} == {
            acme.pk: "acme",
            bolt.pk: "bolt",
        }

    def test_what_was_printed_for_an_erased_customer_stays(self, live_seller: Seller) -> None:
        live_seller.plan("pro")
        subscription = live_seller.subscribe("acme-inc", "pro", start=live_seller.now)
        invoice = store_invoice(subscription, "INV-1", FEE)
        before = Invoice.objects.filter(pk=invoice.pk).values().get()

        erase_customer(organization=live_seller.organization, external_id="acme-inc", actor="test", now=timezone.now())

        assert Invoice.objects.filter(pk=invoice.pk).values().get() == before
        assert before["snapshot"]["customer"]["external_id"] == "acme-inc"

    def test_erased_customers_profile_is_gone_and_their_name_with_it(self, api: Api, org: Organization) -> None:
        for name in ("acme-inc", "bolt"):
            factories.make_customer(organization=org, external_id=name)
            api.call("PUT", f"/v1/billing/customers/{name}/profile", PROFILE)
            granted = {"customer": name, "currency": "USD", "amount_minor": 5, "name": f"For {name}"}
            api.post("/v1/credits", granted, status=201)

        erased = erase_customer(organization=org, external_id="acme-inc", actor="test", now=timezone.now())

        [left] = BillingProfile.objects.for_organization(org)
        assert left.customer.external_id == "bolt"
        assert [target for target, _ in audited(org, "billing_profile.changed")] == [erased.customer, "bolt"]
        grants = CreditGrant.objects.for_organization(org).order_by("pk")
        assert [grant.name for grant in grants] == [f"For {erased.customer}", "For bolt"]
        assert [target.partition(" of ")[2] for target, _ in audited(org, "credit.granted")] == [
            erased.customer,
            "bolt",
        ]
