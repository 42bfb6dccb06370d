"""The pages under `/o/<organization>/forwarding/`: the listener's state, instances, the quarantine."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import Organization, User
from accounts.services import IssuedKey
from metering.dialects.weave.contexts import forwarding as forwarding_context
from metering.dialects.weave.contexts import quarantine as quarantine_context
from metering.dialects.weave.models import Instance, QuarantinedRecord, WeaveSettings
from metering.dialects.weave.services import map_instance, update_weave_settings
from tests import factories

pytestmark = pytest.mark.django_db

HOUR = (datetime.now(UTC) - timedelta(days=1)).replace(minute=0, second=0, microsecond=0)
PageUrl = Callable[[str], str]
Wait = Callable[..., QuarantinedRecord]


@pytest.fixture
def browser(client_for: Callable[[User], Client], alice: User, org: Organization) -> Client:
    return client_for(alice)


@pytest.fixture
def viewers_browser(client_for: Callable[[User], Client], bob: User) -> Client:
    return client_for(bob)


@pytest.fixture
def page_url(org: Organization) -> PageUrl:
    return lambda path: f"/o/{org.pk}/forwarding/{path}"


@pytest.fixture
def wait() -> Wait:
    """Return a maker of records that wait."""

    def make(organization: Organization | None, instance: str = "1234", **fields: Any) -> QuarantinedRecord:
        number = QuarantinedRecord.objects.all_tenants().count()
        record = {"unique_key": f"k{number}:samples", "amount_type": "samples", "amount_value": 7}
        text = json.dumps(
            {**record, "internal_instance_id": instance, "metadata": None, "occurred_at": HOUR.isoformat()}
        )
        return QuarantinedRecord.objects.create(
            **{
                "organization": organization,
                "internal_instance_id": instance,
                "unique_key": record["unique_key"],
                "amount_type": record["amount_type"],
                "reason": "unknown_instance" if organization is None else "unknown_metric",
                "message": "It waits.",
                "record": text,
                "digest": hashlib.sha256(text.encode()).digest(),
                "peer": "127.0.0.1:50000",
                "received_at": timezone.now(),
                **fields,
            }
        )

    return make


def page_of(response: Any) -> Any:
    assert response.status_code == 200, response.status_code
    return response.context["page"]


def told(response: Any) -> str:
    """Return the last message; those before wait, too, until a page shows them."""
    assert response.status_code == 302, response.content
    return str(list(get_messages(response.wsgi_request))[-1])


class TestListener:
    @pytest.fixture
    def listening(self, settings: Any) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            settings.FORWARD_HOST, settings.FORWARD_PORT = "127.0.0.1", server.getsockname()[1]
            yield settings.FORWARD_PORT

    def test_tells_where_it_is_and_that_it_answers(self, browser: Client, page_url: PageUrl, listening: int) -> None:
        listener = page_of(browser.get(page_url(""))).listener

        assert (listener.address, listener.is_answering, listener.is_local) == (f"127.0.0.1:{listening}", True, True)
        assert listener.go_flags == f"-billing.ingester=127.0.0.1:{listening}"
        compile(listener.python, "example", "exec")
        assert f'"127.0.0.1:{listening}"' in listener.python

    def test_tells_that_nobody_answers(self, browser: Client, page_url: PageUrl, settings: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            settings.FORWARD_HOST, settings.FORWARD_PORT = "127.0.0.1", probe.getsockname()[1]
            answer = browser.get(page_url(""))
        assert not page_of(answer).listener.is_answering
        assert "not answering" in answer.content.decode()

    def test_tells_that_there_is_none(self, browser: Client, page_url: PageUrl, settings: Any) -> None:
        settings.FORWARD_PORT = 0
        answer = browser.get(page_url(""))
        assert not page_of(answer).listener.is_enabled
        assert "-billing.ingester" not in answer.content.decode()

    def test_tells_of_the_port_with_a_shared_key_alone(
        self, browser: Client, page_url: PageUrl, settings: Any, listening: int
    ) -> None:
        settings.FORWARD_SECURE_HOST, settings.FORWARD_SECURE_PORT = settings.FORWARD_HOST, listening
        settings.FORWARD_HOST, settings.FORWARD_PORT = "0.0.0.0", 0
        answer = browser.get(page_url(""))
        listener = page_of(answer).listener
        assert (listener.is_enabled, listener.is_answering, listener.is_local) == (True, True, True)
        assert (listener.address, listener.secure_address) == ("", f"127.0.0.1:{listening}")
        assert "-billing.ingester" not in answer.content.decode()

    @pytest.mark.parametrize(
        ("host", "address", "is_local"),
        [
            ("0.0.0.0", "testserver:24225", False),
            ("::", "testserver:24225", False),
            ("::1", "[::1]:24225", True),
            ("localhost", "localhost:24225", True),
        ],
    )
    def test_shows_the_address_that_clients_use(
        self, browser: Client, page_url: PageUrl, settings: Any, host: str, address: str, is_local: bool
    ) -> None:
        settings.FORWARD_HOST, settings.FORWARD_PORT = host, 24225
        listener = page_of(browser.get(page_url(""))).listener
        assert (listener.address, listener.is_local) == (address, is_local)


class TestInstances:
    def test_empty_page_says_what_to_do(self, browser: Client, viewers_browser: Client, page_url: PageUrl) -> None:
        text = browser.get(page_url("")).content.decode()
        assert "No instance is mapped" in text
        assert page_url("map") in text
        assert page_url("map") not in viewers_browser.get(page_url("")).content.decode()

    def test_mapping_counts_what_waited(
        self, browser: Client, page_url: PageUrl, org: Organization, wait: Wait
    ) -> None:
        wait(None)
        wait(None)
        [row] = page_of(browser.get(page_url(""))).waiting
        assert (row.internal_instance_id, row.reason, row.count) == ("1234", "unknown_instance", 2)

        form = page_of(browser.get(row.map_url)).form
        assert form["internal_instance_id"].value() == "1234"
        answer = browser.post(
            page_url("map"), {"internal_instance_id": "1234", "customer": "acme", "is_released": "on"}
        )
        message = told(answer)
        assert "2 counted now" in message

        page = page_of(browser.get(page_url("")))
        assert page.waiting == []
        [instance] = page.instances
        assert (instance.internal_instance_id, instance.customer) == ("1234", "acme")
        assert browser.get(instance.customer_url).status_code == 200

    def test_mapping_may_leave_what_waits(
        self, browser: Client, page_url: PageUrl, org: Organization, wait: Wait
    ) -> None:
        wait(None)
        told(browser.post(page_url("map"), {"internal_instance_id": "1234", "customer": "acme"}))
        assert QuarantinedRecord.objects.all_tenants().count() == 1
        assert Instance.objects.for_organization(org).get().customer_external_id == "acme"

    @pytest.mark.parametrize(
        ("changes", "fields"),
        [
            ({"internal_instance_id": ""}, {"internal_instance_id"}),
            ({"internal_instance_id": "1" * 257}, {"internal_instance_id"}),
            ({"customer": ""}, {"customer"}),
            ({"customer": "a\x00"}, {"customer"}),
            ({"internal_instance_id": "taken"}, {"__all__"}),
        ],
    )
    def test_refusals_stand_at_their_fields(
        self, browser: Client, page_url: PageUrl, org: Organization, changes: dict[str, str], fields: set[str]
    ) -> None:
        map_instance(organization=org, internal_instance_id="taken", customer_external_id="acme", actor="test")
        answer = browser.post(page_url("map"), {"internal_instance_id": "1", "customer": "acme"} | changes)
        assert set(page_of(answer).form.errors) == fields
        assert Instance.objects.for_organization(org).count() == 1

    def test_are_unmapped(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        map_instance(organization=org, internal_instance_id="a/b ", customer_external_id="acme", actor="test")
        told(browser.post(page_url("unmap"), {"internal_instance_id": "a/b "}))
        assert not Instance.objects.for_organization(org).exists()
        assert browser.post(page_url("unmap"), {"internal_instance_id": "a/b "}).status_code == 404

    def test_are_mapped_by_admins_alone(
        self, viewers_browser: Client, browser: Client, page_url: PageUrl, other_org: Organization
    ) -> None:
        for path in ("map", "unmap", "settings"):
            answer = viewers_browser.post(page_url(path), {"internal_instance_id": "1", "customer": "acme"})
            assert answer.status_code == 403, path
        # There is another organization, and the operator named none.
        assert browser.post(page_url("map"), {"internal_instance_id": "1", "customer": "acme"}).status_code == 403
        page = page_of(browser.get(page_url("")))
        assert (page.is_open, page.may_map) == (False, False)

    def test_come_in_pages_with_as_many_queries(
        self, browser: Client, page_url: PageUrl, org: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forwarding_context, "PAGE_SIZE", 3)

        def count_queries() -> int:
            browser.get(page_url(""))
            with CaptureQueriesContext(connection) as queries:
                browser.get(page_url(""))
            return len(queries)

        def add(*names: str) -> None:
            for name in names:
                map_instance(organization=org, internal_instance_id=name, customer_external_id=name, actor="test")

        add("a")
        alone = count_queries()
        add("b", "c", "d & e")
        assert count_queries() == alone

        first = page_of(browser.get(page_url("")))
        assert [row.internal_instance_id for row in first.instances] == ["a", "b", "c"]
        second = page_of(browser.get(page_url("") + first.next_url))
        assert [row.internal_instance_id for row in second.instances] == ["d & e"]
        assert (second.next_url, second.first_url) == ("", "?")


class TestQuarantine:
    def test_shows_records_as_they_came(
        self, browser: Client, page_url: PageUrl, org: Organization, wait: Wait
    ) -> None:
        wait(org, record='{"amount_value":12345678901234567890123,"note":"<b>"}')
        wait(org, instance="", record="not JSON {", is_whole=False, reason="malformed_record")

        answer = browser.get(page_url("quarantine/"))
        torn, whole = page_of(answer).rows
        assert torn.text == "not JSON {"
        assert whole.text == '{\n  "amount_value": 12345678901234567890123,\n  "note": "<b>"\n}'
        text = answer.content.decode()
        assert "<b>" not in text
        assert "cannot be released" in text

    def test_is_released_and_discarded(
        self, browser: Client, page_url: PageUrl, org: Organization, wait: Wait, api_key: IssuedKey
    ) -> None:
        map_instance(organization=org, internal_instance_id="1234", customer_external_id="acme", actor="test")
        chosen, _, unwanted = wait(org), wait(org), wait(org)
        url = page_url("quarantine/")

        assert told(browser.post(url, {"action": "release", "ids": [chosen.pk]})) == "1 counted now."
        assert told(browser.post(url, {"action": "discard", "ids": [unwanted.pk]})) == "1 discarded."
        assert told(browser.post(url, {"action": "release_all"})) == "1 counted now."
        assert "Nothing waits" in browser.get(url).content.decode()

    def test_one_instance_is_shown_and_released_alone(
        self, browser: Client, page_url: PageUrl, org: Organization, wait: Wait
    ) -> None:
        for name in ("a & b", "c"):
            map_instance(organization=org, internal_instance_id=name, customer_external_id=name, actor="test")
            wait(org, instance=name)
        [row] = [row for row in page_of(browser.get(page_url(""))).waiting if row.internal_instance_id == "a & b"]

        page = page_of(browser.get(row.records_url))
        assert [shown.internal_instance_id for shown in page.rows] == ["a & b"]
        answer = browser.post(page_url("quarantine/"), {"action": "release_all", "instance": "a & b"})
        assert told(answer) == "1 counted now."
        assert answer["Location"] == row.records_url
        assert [shown.internal_instance_id for shown in page_of(browser.get(page_url("quarantine/"))).rows] == ["c"]

    def test_comes_in_pages(
        self, browser: Client, page_url: PageUrl, org: Organization, wait: Wait, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quarantine_context, "PAGE_SIZE", 2)
        records = [wait(org) for _ in range(3)]
        url = page_url("quarantine/")
        first = page_of(browser.get(url))
        second = page_of(browser.get(url + first.next_url))
        assert [row.pk for row in (*first.rows, *second.rows)] == [record.pk for record in reversed(records)]
        assert (second.next_url, second.first_url) == ("", "?")

    def test_records_of_nobody_are_hidden_from_those_who_may_not_map(
        self,
        browser: Client,
        client_for: Callable[[User], Client],
        page_url: PageUrl,
        org: Organization,
        wait: Wait,
    ) -> None:
        developer = factories.make_user()
        factories.make_membership(organization=org, user=developer, role="developer")
        record = wait(None, instance="nobodys")
        developers_browser = client_for(developer)

        assert "nobodys" in browser.get(page_url("")).content.decode()
        assert "nobodys" in browser.get(page_url("quarantine/")).content.decode()
        for path in ("", "quarantine/"):
            assert "nobodys" not in developers_browser.get(page_url(path)).content.decode()
        answer = developers_browser.post(page_url("quarantine/"), {"action": "discard", "ids": [record.pk]})
        assert told(answer) == "0 discarded."
        assert "nobodys" in browser.get(page_url("")).content.decode()

    def test_viewer_is_told_how_much_waits_and_no_more(
        self, viewers_browser: Client, page_url: PageUrl, org: Organization, wait: Wait
    ) -> None:
        wait(org, instance="ours")
        answer = viewers_browser.get(page_url(""))
        assert [row.internal_instance_id for row in page_of(answer).waiting] == ["ours"]
        assert page_url("quarantine/") not in answer.content.decode()
        assert viewers_browser.get(page_url("quarantine/")).status_code == 403

    @pytest.mark.parametrize("form", [{}, {"action": "forget"}, {"action": "release", "ids": ["x"]}])
    def test_refuses_what_the_page_does_not_offer(
        self, browser: Client, page_url: PageUrl, form: dict[str, Any]
    ) -> None:
        assert browser.post(page_url("quarantine/"), form).status_code == 422


def test_settings_are_changed(browser: Client, viewers_browser: Client, page_url: PageUrl) -> None:
    def is_chosen() -> bool:
        value: bool = page_of(browser.get(page_url(""))).is_metric_auto_created
        return value

    assert is_chosen()
    assert told(browser.post(page_url("settings"), {})) == "Saved."
    assert not is_chosen()
    assert "wait" in viewers_browser.get(page_url("")).content.decode()
    told(browser.post(page_url("settings"), {"is_metric_auto_created": "on"}))
    assert is_chosen()


def test_outsiders_find_nothing(client_for: Callable[[User], Client], charlie: User, page_url: PageUrl) -> None:
    for path in ("", "map", "quarantine/"):
        assert client_for(charlie).get(page_url(path)).status_code == 404


@pytest.mark.parametrize("model", [Instance, QuarantinedRecord, WeaveSettings], ids=lambda model: model.__name__)
def test_staff_see_everything_and_change_nothing(
    client_for: Callable[[User], Client], org: Organization, wait: Wait, model: type[Model]
) -> None:
    staff = factories.make_user(is_staff=True)
    User.objects.filter(pk=staff.pk).update(is_superuser=True)
    map_instance(organization=org, internal_instance_id="1234", customer_external_id="acme", actor="test")
    update_weave_settings(organization=org, is_metric_auto_created=False, actor="test")
    row_of_nobody = wait(None)
    name = f"admin:weave_{model._meta.model_name}"
    row = model._base_manager.get()
    assert row_of_nobody.organization is None

    assert client_for(staff).get(reverse(f"{name}_changelist"), {"q": "1234"}).status_code == 200
    assert client_for(staff).get(reverse(f"{name}_change", args=[row.pk])).status_code == 200
    assert client_for(staff).post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
