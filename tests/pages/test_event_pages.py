"""The tail of events, one event, and the inbox of those that were not counted."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from accounts.models import AuditEntry, Organization
from accounts.services import update_organization
from metering.contexts import events as event_contexts
from metering.models import Aggregation, EventVoid, InboxEvent, InboxState, Metric
from metering.queries import get_usage
from tests import factories
from tests.pages.conftest import JSON, text_of

PageUrl = Callable[[str], str]
Send = Callable[..., None]


@pytest.fixture
def calls(make_metric: Callable[..., Metric]) -> Metric:
    return make_metric("calls", Aggregation.COUNT)


def call(key: str, at: datetime, **fields: Any) -> dict[str, Any]:
    return factories.make_event(idempotency_key=key, type="calls", timestamp=at.isoformat(), **fields)


def keys_of(answer: Any) -> list[str]:
    return [row.key for row in answer.context["page"].rows]


@pytest.mark.usefixtures("calls")
class TestList:
    def test_shows_the_newest_first(self, browser: Client, page_url: PageUrl, send: Send, noon: datetime) -> None:
        send(call("older", noon), call("newer", noon + timedelta(seconds=1)), call("oldest", noon - timedelta(days=9)))

        assert keys_of(browser.get(page_url("events/"))) == ["newer", "older", "oldest"]

    def test_filters_by_customer_and_metric(
        self, browser: Client, page_url: PageUrl, send: Send, noon: datetime, make_metric: Callable[..., Metric]
    ) -> None:
        make_metric("other", Aggregation.COUNT)
        send(
            call("mine", noon, customer="acme"),
            call("theirs", noon, customer="bolt"),
            factories.make_event(idempotency_key="other", customer="acme", type="other", timestamp=noon.isoformat()),
        )

        assert keys_of(browser.get(page_url("events/?customer=acme&metric=calls"))) == ["mine"]

    def test_an_unknown_filter_is_told(self, browser: Client, page_url: PageUrl, send: Send, noon: datetime) -> None:
        send(call("one", noon))

        page = browser.get(page_url("events/?customer=nobody&metric=nothing")).context["page"]

        assert len(page.problems) == 2
        assert [row.key for row in page.rows] == ["one"]

    def test_pages_go_through_equal_times_without_gaps(
        self, browser: Client, page_url: PageUrl, send: Send, noon: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(event_contexts, "TAIL_SIZE", 2)
        send(*(call(f"key-{number}", noon) for number in range(5)))

        seen: list[str] = []
        url = page_url("events/?customer=cust_42")
        while url:
            answer = browser.get(url)
            page = answer.context["page"]
            seen += keys_of(answer)
            assert page.is_tail == (len(seen) <= 2)
            url = page.next_url and page_url("events/") + page.next_url

        assert seen == ["key-4", "key-3", "key-2", "key-1", "key-0"]

    @pytest.mark.parametrize("before", ["x", "1.", ".1", "1" * 40 + ".1", "1." + "9" * 40, "\u0661.\u0661", "%00"])
    def test_a_forged_position_is_the_newest_page(
        self, browser: Client, page_url: PageUrl, send: Send, noon: datetime, before: str
    ) -> None:
        send(call("one", noon))

        assert keys_of(browser.get(page_url(f"events/?before={before}"))) == ["one"]

    def test_live_rows_are_the_rows_of_the_page(
        self, browser: Client, page_url: PageUrl, send: Send, noon: datetime
    ) -> None:
        send(call("one", noon, properties={"path": "/a b", "n": 1.50}), call("two", noon))

        live = text_of(browser.get(page_url("events/rows?key=one")))

        assert 'data-key="one"' in live
        assert 'data-key="two"' not in live
        assert live.strip().split("</tr>")[0] in text_of(browser.get(page_url("events/")))

    def test_live_rows_without_keys_are_the_newest(
        self, browser: Client, page_url: PageUrl, send: Send, noon: datetime
    ) -> None:
        send(call("one", noon), call("two", noon))

        rows = browser.get(page_url("events/rows")).context["rows"]

        assert [row.key for row in rows] == ["two", "one"]

    def test_tells_the_browser_where_to_listen(
        self, browser: Client, page_url: PageUrl, org: Organization, send: Send, noon: datetime
    ) -> None:
        send(call("one", noon, customer="acme"))

        page = browser.get(page_url("events/?customer=acme&metric=calls")).context["page"]

        assert page.stream_url == f"/v1/events/stream?organization={org.pk}&customer=acme&metric=calls"
        assert page.rows_url == page_url("events/rows") + "?customer=acme&metric=calls"

    def test_costs_the_same_for_twice_as_many_events(
        self,
        browser: Client,
        page_url: PageUrl,
        send: Send,
        noon: datetime,
        count_queries: Callable[[Client, str], int],
    ) -> None:
        send(*(call(f"first-{number}", noon, customer=f"c{number}") for number in range(5)))
        before = count_queries(browser, page_url("events/"))

        send(*(call(f"second-{number}", noon, customer=f"d{number}") for number in range(5)))

        assert count_queries(browser, page_url("events/")) == before


class TestEvent:
    @pytest.mark.parametrize("key", ["plain", "with/slash", "..", "a?b=c&d", "key with spaces", "ключ", "+%2B"])
    def test_is_found_by_any_key(
        self, browser: Client, page_url: PageUrl, calls: Metric, send: Send, noon: datetime, key: str
    ) -> None:
        send(call(key, noon))
        row = browser.get(page_url("events/")).context["page"].rows[0]

        assert browser.get(row.url).context["page"].row.key == key

    def test_tells_what_each_metric_takes_of_it(
        self, browser: Client, page_url: PageUrl, make_metric: Callable[..., Metric], send: Send, noon: datetime
    ) -> None:
        make_metric("downloads", Aggregation.COUNT, event_type="download")
        make_metric("bytes", Aggregation.SUM, event_type="download", value_property="size", unit="byte")
        make_metric("files", Aggregation.COUNT_UNIQUE, event_type="download", value_property="file")
        make_metric("speed", Aggregation.MAX, event_type="download", value_property="speed")
        send(
            factories.make_event(
                idempotency_key="d1",
                type="download",
                timestamp=noon.isoformat(),
                properties={"size": "12.50", "file": "a.zip", "fast": True},
            )
        )

        page = browser.get(page_url("event/?key=d1")).context["page"]

        assert {metric.name: metric.contribution for metric in page.metrics} == {
            "downloads": "one event",
            "bytes": "12.50 byte",
            "files": "a.zip",
            "speed": "nothing: it has no speed",
        }
        assert {(entry.name, entry.text) for entry in page.properties} == {
            ("size", "12.50"),
            ("file", "a.zip"),
            ("fast", "true"),
        }

    def test_of_another_organization_is_404(
        self,
        browser: Client,
        outsiders_browser: Client,
        other_org: Organization,
        page_url: PageUrl,
        calls: Metric,
        send: Send,
        noon: datetime,
    ) -> None:
        send(call("ours", noon))

        assert browser.get(page_url("event/?key=ours")).status_code == 200
        assert outsiders_browser.get(f"/o/{other_org.pk}/event/?key=ours").status_code == 404
        assert browser.get(page_url("event/?key=nothing")).status_code == 404
        assert browser.get(page_url("event/?key=%00")).status_code == 404
        assert browser.get(page_url("event/")).status_code == 404

    def test_void_takes_it_out_of_the_numbers_and_keeps_the_reason(
        self, browser: Client, page_url: PageUrl, org: Organization, calls: Metric, send: Send, noon: datetime
    ) -> None:
        send(call("wrong", noon), call("right", noon))

        answer = browser.post(page_url("event/void"), {"key": "wrong", "reason": "sent twice"}, follow=True)

        assert "sent twice" in text_of(answer)
        assert answer.context["page"].row.is_voided
        assert not answer.context["page"].can_void
        counted = get_usage(organization=org, metric=calls, start=noon, end=noon + timedelta(hours=1))
        assert counted.value == 1
        assert (
            AuditEntry.objects.for_organization(org).filter(action="event.voided", actor__startswith="user:").exists()
        )

    def test_void_needs_a_reason(
        self, browser: Client, page_url: PageUrl, org: Organization, calls: Metric, send: Send, noon: datetime
    ) -> None:
        send(call("wrong", noon))

        page = text_of(browser.post(page_url("event/void"), {"key": "wrong", "reason": " "}))

        assert "This field is required" in page
        assert not EventVoid.objects.for_organization(org).exists()

    def test_second_void_is_refused_in_words(
        self, browser: Client, page_url: PageUrl, calls: Metric, send: Send, noon: datetime
    ) -> None:
        send(call("wrong", noon))
        form = {"key": "wrong", "reason": "sent twice"}
        browser.post(page_url("event/void"), form)

        answer = browser.post(page_url("event/void"), form)

        assert answer.status_code == 409
        assert "voided before" in answer.content.decode()

    def test_viewer_may_not_void(
        self, viewers_browser: Client, page_url: PageUrl, org: Organization, calls: Metric, send: Send, noon: datetime
    ) -> None:
        send(call("right", noon))

        assert "Void this event" not in text_of(viewers_browser.get(page_url("event/?key=right")))
        answer = viewers_browser.post(page_url("event/void"), {"key": "right", "reason": "I want to"})

        assert answer.status_code == 403
        assert not EventVoid.objects.for_organization(org).exists()


@pytest.fixture
def wait(org: Organization, api_client: Client) -> Callable[..., None]:
    """Send events that no metric listens to, which then wait."""
    update_organization(organization=org, actor="test", changes={"is_unmatched_kept": True})

    def send_unmatched(*keys: str, event_type: str = "unheard.of") -> None:
        events = [factories.make_event(idempotency_key=key, type=event_type) for key in keys]
        api_client.post("/v1/events", events, content_type=JSON)

    return send_unmatched


class TestInbox:
    def test_shows_what_waits_and_why(self, browser: Client, page_url: PageUrl, wait: Callable[..., None]) -> None:
        wait("one", "two")

        page = browser.get(page_url("inbox/")).context["page"]

        assert [(row.idempotency_key, row.event_type, row.code) for row in page.rows] == [
            ("two", "unheard.of", "unknown_metric"),
            ("one", "unheard.of", "unknown_metric"),
        ]
        assert "unheard.of" in page.rows[0].message

    def test_payload_is_shown_to_the_last_digit(
        self, browser: Client, page_url: PageUrl, wait: Callable[..., None], api_client: Client
    ) -> None:
        body = '{"idempotency_key":"x","customer":"c","type":"unheard.of","value":0.12345678901234567890}'
        api_client.post("/v1/events", body, content_type=JSON)

        assert "0.12345678901234567890" in text_of(browser.get(page_url("inbox/")))

    def test_chosen_ones_are_counted_once_the_metric_is_there(
        self,
        browser: Client,
        page_url: PageUrl,
        org: Organization,
        wait: Callable[..., None],
        make_metric: Callable[..., Metric],
    ) -> None:
        wait("one", "two")
        make_metric("unheard.of", Aggregation.COUNT)
        chosen = InboxEvent.objects.for_organization(org).get(idempotency_key="one")

        answer = browser.post(page_url("inbox/"), {"action": "replay", "ids": [chosen.pk]}, follow=True)

        assert "1 counted now." in text_of(answer)
        assert [row.idempotency_key for row in answer.context["page"].rows] == ["two"]
        assert keys_of(browser.get(page_url("events/"))) == ["one"]

    def test_all_are_replayed_and_those_that_still_fail_stay(
        self, browser: Client, page_url: PageUrl, wait: Callable[..., None], make_metric: Callable[..., Metric]
    ) -> None:
        wait("one", "two")
        wait("three", event_type="never.heard.of")
        make_metric("unheard.of", Aggregation.COUNT)

        answer = browser.post(page_url("inbox/"), {"action": "replay_all"}, follow=True)

        assert "2 counted now; 1 still wait, each says why." in text_of(answer)
        assert [row.idempotency_key for row in answer.context["page"].rows] == ["three"]

    def test_discarded_ones_are_settled(
        self, browser: Client, page_url: PageUrl, org: Organization, wait: Callable[..., None]
    ) -> None:
        wait("one", "two")
        chosen = InboxEvent.objects.for_organization(org).get(idempotency_key="one")

        browser.post(page_url("inbox/"), {"action": "discard", "ids": [chosen.pk]})

        states = InboxEvent.objects.for_organization(org).values_list("idempotency_key", "state")
        assert dict(states) == {"one": InboxState.DISCARDED, "two": InboxState.WAITING}

    @pytest.mark.parametrize(
        "form",
        [{}, {"action": "burn"}, {"action": "replay", "ids": ["x"]}, {"action": "discard", "ids": ["9" * 40]}],
        ids=["nothing", "unknown action", "no id", "no possible id"],
    )
    def test_nonsense_changes_nothing(
        self, browser: Client, page_url: PageUrl, org: Organization, wait: Callable[..., None], form: dict[str, Any]
    ) -> None:
        wait("one")

        assert browser.post(page_url("inbox/"), form).status_code == 422
        assert InboxEvent.objects.for_organization(org).get().state == InboxState.WAITING

    def test_another_organizations_events_stay_where_they_are(
        self,
        outsiders_browser: Client,
        other_org: Organization,
        org: Organization,
        wait: Callable[..., None],
    ) -> None:
        wait("one")
        foreign = InboxEvent.objects.for_organization(org).get()

        outsiders_browser.post(f"/o/{other_org.pk}/inbox/", {"action": "discard", "ids": [foreign.pk]})

        foreign.refresh_from_db()
        assert foreign.state == InboxState.WAITING

    def test_viewer_may_look_and_not_settle(
        self, viewers_browser: Client, page_url: PageUrl, wait: Callable[..., None]
    ) -> None:
        wait("one")

        assert "Replay all" not in text_of(viewers_browser.get(page_url("inbox/")))
        assert viewers_browser.post(page_url("inbox/"), {"action": "replay_all"}).status_code == 403

    def test_costs_the_same_for_twice_as_many(
        self,
        browser: Client,
        page_url: PageUrl,
        wait: Callable[..., None],
        count_queries: Callable[[Client, str], int],
    ) -> None:
        wait(*(f"first-{number}" for number in range(5)))
        before = count_queries(browser, page_url("inbox/"))

        wait(*(f"second-{number}" for number in range(5)))

        assert count_queries(browser, page_url("inbox/")) == before
