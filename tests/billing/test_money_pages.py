"""The pages of billing settings and tax rates, and credits and the profile on a customer's billing tab."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.test import Client

from accounts.models import Organization, User
from billing.domain.invoices import InvoiceLineContent
from billing.domain.periods import BillingPeriod
from billing.forms.invoices import CreditForm
from billing.models import CreditGrant, TaxRate
from billing.queries.credits import list_grants
from billing.queries.profiles import get_profile
from billing.queries.settings import get_settings
from billing.services.tax_rates import TaxRateDefinition, create_tax_rate
from tests.billing.seller import Seller

pytestmark = pytest.mark.django_db

OCTOBER, NOVEMBER = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def owner(alice: User, client_for: Callable[[User], Client]) -> Client:
    return client_for(alice)


@pytest.fixture
def path(org: Organization) -> str:
    return f"/o/{org.pk}"


class TestSettings:
    FORM = {
        "seller_name": "Initech",
        "grace_hours": 48,
        "payment_days": 14,
        "adjustment_days": 92,
        "invoice_prefix": "R-",
        "credit_note_prefix": "G-",
        "is_mailed": "on",
    }

    def test_owner_changes_them(self, owner: Client, path: str, org: Organization) -> None:
        assert owner.get(f"{path}/billing-settings").status_code == 200
        assert owner.post(f"{path}/billing-settings", self.FORM).status_code == 302

        saved = get_settings(org)
        assert (saved.seller_name, saved.grace_hours, saved.invoice_prefix, saved.is_mailed) == (
            "Initech",
            48,
            "R-",
            True,
        )

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"grace_hours": 721}, "less than or equal to 720"),
            ({"credit_note_prefix": "R-"}, "Invoices and credit notes have different prefixes."),
            ({"credit_note_prefix": "R 1"}, "Up to 16 letters"),
            ({"payment_days": ""}, "This field is required."),
        ],
        ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
    )
    def test_refusal_stands_at_the_field(
        self, owner: Client, path: str, org: Organization, change: dict[str, object], told: str
    ) -> None:
        answer = owner.post(f"{path}/billing-settings", self.FORM | change)

        assert told in answer.content.decode()
        assert get_settings(org).invoice_prefix == "INV-"

    def test_rates_are_added_replaced_and_archived(self, owner: Client, path: str, org: Organization) -> None:
        form = {"code": "vat", "name": "VAT", "percent": "19.5", "country": "DE"}
        assert owner.post(f"{path}/tax-rates", form).status_code == 302
        change = {"code": "vat-27", "percent": "20", "valid_from": "2027-01-01", "replaces": "vat"}
        assert owner.post(f"{path}/tax-rates", form | change).status_code == 302
        assert "already" not in (page := owner.get(f"{path}/billing-settings").content.decode())
        assert "19.5\u202f%" in page
        assert "31 Dec 2026" in page
        refused = owner.post(f"{path}/tax-rates", form | {"country": "de", "percent": "101"}).content.decode()
        assert "less than or equal to 100" in refused
        assert "There is a tax rate with the code" in owner.post(f"{path}/tax-rates", form).content.decode()
        assert owner.post(f"{path}/tax-rates/vat-27/archive").status_code == 302

        rates = TaxRate.objects.for_organization(org).filter(archived_at__isnull=True)
        assert list(rates.values_list("code", "valid_until")) == [("vat", date(2026, 12, 31))]

    def test_viewer_sees_and_may_not_change(
        self, bob: User, client_for: Callable[[User], Client], path: str, org: Organization, now: datetime
    ) -> None:
        definition = TaxRateDefinition(code="vat", name="VAT", percent=Decimal(19))
        create_tax_rate(organization=org, definition=definition, actor="test", now=now)
        viewer = client_for(bob)

        page = viewer.get(f"{path}/billing-settings").content.decode()
        assert "VAT" in page
        assert "Archive" not in page
        assert "Save" not in page
        for target in ("billing-settings", "tax-rates", "tax-rates/vat/archive"):
            assert viewer.post(f"{path}/{target}", self.FORM).status_code == 403


class TestCustomer:
    GRANT = {"amount": "49.90", "currency": "USD", "kind": "prepaid", "priority": "100", "idempotency_key": "page:1"}

    @pytest.fixture
    def tab(self, live_seller: Seller, path: str) -> str:
        live_seller.organization.zone = "Europe/Berlin"
        live_seller.organization.save()
        return f"{path}/customers/{live_seller.customer('acme').pk}"

    def test_profile_is_saved_and_shown_again(
        self, owner: Client, bob: User, client_for: Callable[[User], Client], tab: str, live_seller: Seller
    ) -> None:
        assert "invoices name the customer by id" in client_for(bob).get(f"{tab}/billing").content.decode()
        profile = {"name": "Acme GmbH", "email": "pay@acme.test", "country": "DE", "is_tax_exempt": "on"}
        assert owner.post(f"{tab}/billing-profile", profile).status_code == 302
        refused = owner.post(f"{tab}/billing-profile", profile | {"country": "De"}).content.decode()

        assert "Two capitals of ISO 3166-1" in refused
        saved = get_profile(customer=live_seller.customer("acme"))
        assert (saved.name, saved.email, saved.country) == ("Acme GmbH", "pay@acme.test", "DE")
        assert saved.is_tax_exempt
        assert "pay@acme.test" in client_for(bob).get(f"{tab}/billing").content.decode()
        assert client_for(bob).post(f"{tab}/billing-profile", profile).status_code == 403

    def test_credit_is_granted_once_in_whole_days_and_taken_back(
        self, owner: Client, bob: User, client_for: Callable[[User], Client], tab: str, org: Organization
    ) -> None:
        days = {"first_day": "2026-10-01", "last_day": "2026-11-30"}
        for _ in range(2):
            assert owner.post(f"{tab}/credits", self.GRANT | days).status_code == 302
        changed = owner.post(f"{tab}/credits", self.GRANT | days | {"amount": "5"}).content.decode()
        assert "This form was sent before" in changed

        [grant] = CreditGrant.objects.for_organization(org)
        assert (grant.amount_minor, grant.effective_at) == (4990, datetime(2026, 9, 30, 22, tzinfo=UTC))
        # A period that ends with the last day is paid, as it ends at the midnight after.
        assert grant.expires_at == datetime(2026, 11, 30, 23, tzinfo=UTC) + timedelta(microseconds=1)
        page = owner.get(f"{tab}/billing").content.decode()
        assert "49.90\u00a0USD" in page
        assert "30 Nov 2026" in page
        assert f"credits/{grant.pk}/void" not in client_for(bob).get(f"{tab}/billing").content.decode()
        assert client_for(bob).post(f"{tab}/credits/{grant.pk}/void").status_code == 403
        assert owner.post(f"{tab}/credits/{grant.pk}/void").status_code == 302
        assert list_grants(organization=org).get().remaining_minor == 0

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"amount": "1.999"}, "Write it like 1234.50"),
            ({"amount": "1", "currency": "BHD", "priority": "1001"}, "less than or equal to 1000"),
            ({"amount": "0"}, "More than nothing"),
            ({"amount": "1000000000000.01"}, "beyond measure"),
            ({"amount": "9" * 31}, "at most 30 characters"),
            ({"currency": "XXX"}, "Select a valid choice"),
            ({"first_day": "2026-12-01", "last_day": "2026-11-30"}, "The last day is not before the first."),
            ({"last_day": "0001-01-01"}, "A day of this or the last century."),
            ({"last_day": "8999-01-01"}, "A time within a hundred years."),
        ],
        ids=["decimals", "priority", "nothing", "huge", "endless", "currency", "days", "early", "late"],
    )
    def test_refusal_stands_in_the_form(
        self, owner: Client, tab: str, org: Organization, change: dict[str, str], told: str
    ) -> None:
        answer = owner.post(f"{tab}/credits", self.GRANT | change)

        assert answer.status_code == 200
        assert told in answer.content.decode()
        assert not CreditGrant.objects.for_organization(org).exists()


class TestCreditNote:
    @pytest.mark.parametrize(
        ("text", "currency", "minor"),
        [
            ("0,50", "USD", 50),
            ("1.250", "KWD", 1250),
            ("1,250", "KWD", None),
            # Would be taken for a line that is left empty, and all of them empty for everything.
            ("0", "USD", None),
        ],
    )
    def test_an_amount_of_a_line_is_more_than_nothing_and_never_guessed(
        self, text: str, currency: str, minor: int | None
    ) -> None:
        line = InvoiceLineContent(
            kind="fee",
            name="Base fee",
            period=BillingPeriod(OCTOBER, NOVEMBER, False),
            period_id=1,
            starts_at=OCTOBER,
            ends_at=NOVEMBER,
            quantity=Decimal(1),
            included_quantity=Decimal(0),
            amount_minor=10**9,
            steps=[],
        )
        form = CreditForm(
            {"reason": "late", "idempotency_key": "page:1", "line_1": text}, lines=[line], currency=currency
        )

        assert form.is_valid() == (minor is not None)
        if minor is not None:
            assert form.amounts() == {1: minor}
