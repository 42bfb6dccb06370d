"""Handing out and erasing somebody who is more than a user of a gateway: a sender, a cluster, and who pays."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import AuditEntry, Customer, Organization
from accounts.services import IssuedKey
from billing.domain.reporting import ReportState
from billing.models import Subscription, UsageReport
from billing.services.stripe_names import name_customer, name_meter
from billing.services.traces import forget_settled_names
from metering import queries
from metering.catalogs.usage_client import REPORTED_VALUE
from metering.dialects.influx.models import Server
from metering.dialects.weave.domain import Arrival
from metering.dialects.weave.models import Instance, QuarantinedRecord
from metering.dialects.weave.services import map_instance, store_records, unmap_instance
from metering.domain import Span
from metering.models import Event, Metric
from metering.queries.mentions import iterate_replacements
from metering.services import erasure as erasing
from metering.services.erasure import erase_customer
from metering.services.rebuild import BEGINNING, END, verify_slice
from tests import factories
from tests.billing.seller import Seller, written
from tests.dialects.gateway.everywhere import find_everywhere
from tests.dialects.weave.listening import record

pytestmark = pytest.mark.django_db
JSON = "application/json"
# As influxdata's README has it: a number that is too short to be looked for in texts.
PERSON, OTHER = "23423", "4711"
STRIPE, INSTANCE, FORMER, HOST = "cus_FriedaM", "instance-of-frieda", "old-box-of-frieda", "frieda.example.com"
WORDS = ("frieda", "Frieda", "lane-of-theirs")


def arrive(*records: Any) -> tuple[int, int]:
    now = timezone.now()
    return tuple(store_records(arrivals=[Arrival(each, "127.0.0.1:5", now) for each in records], now=now))


def post(client: Client, path: str, body: Any, token: str) -> None:
    answer = client.post(f"/api/v1{path}", body, content_type=JSON, headers={"X-Authorization": token})
    assert answer.status_code in {200, 201}, answer.content


def map_to(org: Organization, instance: str, customer: str) -> None:
    map_instance(organization=org, internal_instance_id=instance, customer_external_id=customer, actor="test")


@pytest.fixture
def subscription(org: Organization, api_client: Client, api_key: IssuedKey) -> Subscription:
    """The person's, who left traces with every app; another one did the same, and stays."""
    for customer, instance in ((PERSON, INSTANCE), (OTHER, "instance-of-other")):
        map_to(org, instance, customer)
        assert arrive(record("5", instance=instance)) == (1, 0)
        twin = record(
            "5", instance=instance, amount=2, metadata={"home": "lane-of-theirs" if customer == PERSON else ""}
        )
        assert arrive(twin) == (0, 1)
        server = {"cluster_id": customer, "server_id": "s1", "product": "influxdb", "version": "1.0"}
        post(api_client, "/servers", server | {"host": HOST if customer == PERSON else "other"}, api_key.text)
        values = {"cluster_id": customer, "server_id": "s1", "num_series": 5}
        motto = {"motto": "I am Frieda"} if customer == PERSON else {}
        post(api_client, "/usage/influxdb", [{"tags": None, "values": values | motto}], api_key.text)
    map_to(org, FORMER, PERSON)
    arrive(record("6", instance=FORMER), record("6", instance=FORMER, amount=2, metadata={"home": "lane-of-theirs"}))
    assert unmap_instance(organization=org, internal_instance_id=FORMER, actor="test")
    answer = api_client.post(
        "/v1/quotas", {"metric": REPORTED_VALUE, "customer": PERSON, "limit": 1000}, content_type=JSON
    )
    assert answer.status_code == 201, answer.content
    return _subscribe(org)


def _subscribe(org: Organization) -> Subscription:
    seller = Seller(org, timezone.now())
    metric = seller.define("samples_billed", "sum", event_type="billed")
    seller.plan("basic", written("per_unit", "10", metric="samples_billed"))
    start = seller.now.replace(hour=0, minute=0, second=0, microsecond=0)
    found = seller.subscribe(PERSON, "basic", start=start, zone="UTC")
    seller.use(PERSON, "billed", 3, max(start, seller.now - timedelta(minutes=1)))
    names = {"organization": org, "actor": "test", "now": seller.now}
    name_customer(customer=found.customer, stripe_customer_id=STRIPE, **names)
    name_meter(metric=metric, event_name="samples", **names)
    return found


def erase(org: Organization) -> str:
    return erase_customer(organization=org, external_id=PERSON, actor="test", now=timezone.now()).customer


def totals(org: Organization) -> dict[str, Any]:
    start = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    span = {"organization": org, "start": start, "end": start + timedelta(days=3)}
    return {
        metric.code: queries.get_usage(**span, metric=metric).value for metric in Metric.objects.for_organization(org)
    }


def difference_count(org: Organization) -> int:
    found: list[Any] = []
    verify_slice(organization=org, span=Span(BEGINNING, END), report=found.append)
    return len(found)


def charges(org: Organization, subscription: Subscription) -> list[int]:
    subscription.refresh_from_db()
    subscription.organization = org
    return Seller(org, timezone.now()).amounts(subscription, at=timezone.now())


class TestErasure:
    def test_nothing_is_left_and_what_is_billed_stays(self, org: Organization, subscription: Subscription) -> None:
        UsageReport.objects.for_organization(org).delete()
        before, billed = totals(org), charges(org, subscription)
        assert (before["samples_billed"], billed) == (3, [30])
        assert len(find_everywhere(*WORDS, STRIPE, PERSON)) > 10

        left = erase(org)

        # The report of their last usage is on its way, under the name that Stripe knows.
        [report] = UsageReport.objects.for_organization(org)
        assert (report.quantity, report.stripe_customer_id, report.state) == (3, STRIPE, ReportState.PENDING)
        assert forget_settled_names() == 0
        UsageReport.objects.for_organization(org).update(
            state=ReportState.DELIVERED, next_attempt_at=None, last_error=f"No such customer: {STRIPE}"
        )
        assert forget_settled_names() == 1
        assert find_everywhere(*WORDS, STRIPE, INSTANCE, FORMER, HOST, PERSON) == set()
        assert (totals(org), charges(org, subscription)) == (before, billed)
        assert subscription.customer.external_id == left
        assert difference_count(org) == 0
        # The other one keeps all of it.
        assert Instance.objects.for_organization(org).get().customer_external_id == OTHER
        assert QuarantinedRecord.objects.for_organization(org).count() == 1
        assert Server.objects.for_organization(org).get().cluster_id == OTHER
        assert forget_settled_names() == 0

    def test_their_cluster_is_called_by_the_name_that_is_left(
        self, org: Organization, subscription: Subscription
    ) -> None:
        left = erase(org)

        metric = Metric.objects.for_organization(org).get(code=REPORTED_VALUE)
        now = timezone.now()
        start = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
        span = {"organization": org, "metric": metric, "start": start, "end": start + timedelta(days=3)}
        rows = queries.list_breakdown(**span, group_by=["cluster"])
        assert {row.group["cluster"]: row.usage.value for row in rows} == {left: 5, OTHER: 5}
        # A report of the same cluster is somebody else's, and makes series of its own.
        [row] = queries.list_breakdown(**span, group_by=["cluster"], filters={"cluster": (left,)})
        assert row.usage.value == 5

    def test_a_record_of_their_instance_is_of_nobody(self, org: Organization, subscription: Subscription) -> None:
        erase(org)

        assert arrive(record("7", instance=INSTANCE)) == (0, 1)
        [waiting] = QuarantinedRecord.objects.all_tenants().filter(internal_instance_id=INSTANCE)
        assert (waiting.organization_id, waiting.reason) == (None, "unknown_instance")
        assert not Customer.objects.for_organization(org).filter(external_id=PERSON).exists()

    def test_a_record_that_comes_between_the_first_step_and_the_last_does_not_bring_them_back(
        self, org: Organization, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        finish = erasing._forget_name
        results = []

        def arrive_first(*arguments: Any) -> None:
            results.append(arrive(record("7", instance=INSTANCE)))
            finish(*arguments)

        monkeypatch.setattr(erasing, "_forget_name", arrive_first)
        erase(org)

        assert results == [(0, 1)]
        assert not Customer.objects.for_organization(org).filter(external_id=PERSON).exists()
        assert not Event.objects.for_organization(org).filter(idempotency_key=f"{INSTANCE}/7").exists()

    def test_an_instance_that_is_somebody_elses_by_now_keeps_what_waits(
        self, org: Organization, subscription: Subscription
    ) -> None:
        map_to(org, FORMER, OTHER)

        erase(org)

        rows = QuarantinedRecord.objects.for_organization(org).filter(internal_instance_id=FORMER)
        assert rows.count() == 1
        entries = AuditEntry.objects.for_organization(org).filter(action="weave_instance.mapped", target=FORMER)
        assert [entry.details for entry in entries] == [{"customer": OTHER}]

    def test_definitions_that_bear_the_same_name_stay(self, org: Organization, api_client: Client) -> None:
        """A price that is in force never changes: to rename what it filters by would fail, and stop the erasure."""
        seller = Seller(org, timezone.now())
        seller.define("calls", "sum", dimensions=["region"])
        seller.plan("premium", written("per_unit", "1", metric="calls", filters={"region": ["premium"]}))
        factories.make_customer(organization=org, external_id="premium")

        assert api_client.delete("/admin/users/premium/delete-usage").status_code == 200

        assert api_client.get("/v1/plans/premium").status_code == 200


def test_the_export_has_what_waits_and_what_is_billed(
    org: Organization, api_client: Client, subscription: Subscription
) -> None:
    answer = api_client.get(f"/admin/users/{PERSON}/export-data")

    text = b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]  # it streams
    rows = json.loads(text)["records"]
    tables = [row["table"] for row in rows]
    assert set(tables) >= {
        "billing.StripeCustomer",
        "billing.Subscription",
        "billing.SubscriptionPhase",
        "influx.Server",
        "weave.Instance",
    }
    # One row of each instance, and each once.
    assert tables.count("weave.QuarantinedRecord") == 2
    assert tables.count("weave.Instance") == tables.count("influx.Server") == 1
    for word in (STRIPE, INSTANCE, FORMER, HOST, "lane-of-theirs", "I am Frieda"):
        assert word in text
    assert "instance-of-other" not in text


@pytest.mark.parametrize(
    ("target", "expected"), [("1 of 1234", "1 of NOBODY"), ("calls of 11234", "calls of 11234"), ("1234", "1234")]
)
def test_what_the_audit_log_says_something_belongs_to_is_replaced_whatever_it_is_called(
    org: Organization, target: str, expected: str
) -> None:
    entry = AuditEntry.objects.create(organization=org, actor="test", action="subscription.created", target=target)

    found = iterate_replacements(organization=org, name="1234", by="NOBODY", known_by=timezone.now())

    changed = {row.pk: columns for row, columns in found}
    assert changed.get(entry.pk, {"target": target}) == {"target": expected}
