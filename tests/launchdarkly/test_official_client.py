"""The official client's 23 methods, both versions, against a live server: every number, recounted from the events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from tests.launchdarkly import cases
from tests.launchdarkly.cases import Case
from tests.launchdarkly.client import VERSIONS
from tests.launchdarkly.conftest import SHOP_ID, STAGING_ID, Asker, Tenant, World, read_report
from tests.launchdarkly.contract import ENDPOINTS, Endpoint, get_endpoint
from tests.launchdarkly.seed import ACME

pytestmark = pytest.mark.django_db

SERIES = [endpoint for endpoint in ENDPOINTS if endpoint.values != "list"]
# Those whose buckets are the finer the nearer their range.
BY_AGE = [get_endpoint(id) for id in ("evaluations", "events", "stream", "stream_usage_by_sdk_version")]
ZONES = ["America/New_York", "Asia/Kolkata", "Pacific/Auckland"]


def each(endpoints: Iterable[Endpoint]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("endpoint", endpoints, ids=lambda endpoint: endpoint.id)


def check(asker: Asker, endpoint: Endpoint, calls: Iterable[Case]) -> None:
    differences = [line for case in calls for line in asker.differences(endpoint, case)]
    assert not differences, "\n".join(differences[:20])


def test_contract_has_every_method() -> None:
    assert len({endpoint.method for endpoint in ENDPOINTS}) == 23


# --- series -------------------------------------------------------------------------------------------------------


@each(SERIES)
def test_defaults_and_ranges(asker: Asker, endpoint: Endpoint) -> None:
    now = asker.world.sent_at
    ranges = [(), cases.recent_weeks(now), (*cases.recent_weeks(now), ("to", cases.milliseconds(now + 9 * cases.DAY)))]

    check(asker, endpoint, [Case(query, path) for path in cases.paths_of(endpoint) for query in ranges])


@each([endpoint for endpoint in SERIES if endpoint.aggregations])
def test_every_aggregation_at_every_granularity(asker: Asker, endpoint: Endpoint) -> None:
    check(asker, endpoint, cases.aggregations(endpoint, asker.world.sent_at))


@each([endpoint for endpoint in SERIES if endpoint.groups])
def test_every_group_alone_and_with_others(asker: Asker, endpoint: Endpoint) -> None:
    turn = list(VERSIONS).index(asker.client.version)

    check(asker, endpoint, cases.groupings(endpoint, asker.world.sent_at, turn))


@each([endpoint for endpoint in SERIES if endpoint.filters])
def test_every_filter_alone_and_repeated(asker: Asker, endpoint: Endpoint) -> None:
    paths = cases.paths_of(endpoint)[:2]
    filterings = list(cases.filterings(endpoint, asker.world.sent_at, asker.world.events))

    check(asker, endpoint, [Case(case.query, path) for case in filterings for path in paths])


@each(BY_AGE)
def test_buckets_are_minutes_hours_or_days_by_the_age_of_the_range(asker: Asker, endpoint: Endpoint) -> None:
    for path in cases.paths_of(endpoint)[:2]:
        for query, width in cases.ranges_by_age(datetime.now(UTC)):
            check(asker, endpoint, [Case(query, path)])
            times = read_report(asker.ask(endpoint, Case(query, path)).data).times
            assert timedelta(milliseconds=times[1] - times[0]) == width, query


@each([endpoint for endpoint in BY_AGE if "tz" in endpoint.parameters])
@pytest.mark.parametrize("zone", ZONES)
def test_zone_moves_the_days_and_nothing_shorter(asker: Asker, endpoint: Endpoint, zone: str) -> None:
    path = cases.paths_of(endpoint)[0]
    ranges = [query for query, _ in cases.ranges_by_age(datetime.now(UTC))]
    ranges += [cases.long_past_year(asker.world.sent_at)]

    check(asker, endpoint, [Case((*query, ("tz", zone)), path) for query in ranges])


@each(SERIES)
def test_seconds_mean_what_milliseconds_mean(asker: Asker, endpoint: Endpoint) -> None:
    start, end = asker.world.sent_at - 40 * cases.DAY, asker.world.sent_at - 3 * cases.DAY
    path = cases.paths_of(endpoint)[0]
    answers = [
        asker.ask(endpoint, Case((("from", write(start)), ("to", other(end))), path)).data
        for write in (cases.seconds, cases.milliseconds)
        for other in (cases.seconds, cases.milliseconds)
    ]

    assert all(answer["series"] == answers[0]["series"] for answer in answers)
    assert len(answers[0]["series"]) in {38, 39}
    check(asker, endpoint, [Case((("from", cases.seconds(start)), ("to", cases.seconds(end))), path)])


@each(SERIES)
def test_numbers_do_not_depend_on_the_range(asker: Asker, endpoint: Endpoint) -> None:
    now, path = asker.world.sent_at, cases.paths_of(endpoint)[0]
    whole, part = (
        read_report(asker.ask(endpoint, Case((("from", cases.milliseconds(now - days * cases.DAY)),), path)).data)
        for days in (64, 9)
    )

    for column, values in part.columns.items():
        assert whole.columns[column][-len(values) :] == values


@each(SERIES)
def test_links_name_the_request_itself(asker: Asker, endpoint: Endpoint) -> None:
    path = {name: value for name, value in cases.paths_of(endpoint)[0].items()}
    query = cases.recent_weeks(asker.world.sent_at)

    link = asker.ask(endpoint, Case(query, path)).data["_links"]["self"]

    address = urlsplit(link["href"])
    assert link["type"] == "application/json"
    assert unquote(address.path) == endpoint.path.format(**path)
    assert tuple(parse_qsl(address.query)) == query


def test_registering_a_project_keeps_the_id_that_reports_had_for_it(world: World) -> None:
    assert world.ids.projects["shop"] == SHOP_ID
    assert world.ids.environments["shop", "staging"] == STAGING_ID

    project = world.tenant.post("/v1/projects", {"key": "labs", "name": "Labs"})
    environment = world.tenant.post("/v1/projects/pay/environments", {"key": "production", "name": "Production"})

    assert project["id"] == world.ids.projects["labs"]
    assert environment["id"] == world.ids.environments["pay", "production"]


# --- lists --------------------------------------------------------------------------------------------------------


def test_sdks_of_each_type_are_listed(asker: Asker) -> None:
    endpoint, world = get_endpoint("mau_sdks_by_type"), asker.world
    for age in (None, 1, 40, 300):
        for types in ([], ["client"], ["server"]):
            start = [("from", cases.milliseconds(world.sent_at - age * cases.DAY))] if age else []
            query = (*start, *(("sdktype", type) for type in types))
            answer = asker.ask(endpoint, Case(query))
            assert answer.data["sdks"] == world.oracle.list_sdks(endpoint, query, datetime.now(UTC)), query
            assert "self" in answer.data["_links"]


def test_versions_of_two_months_are_listed(asker: Asker) -> None:
    endpoint = get_endpoint("stream_usage_sdkversion")
    for path in cases.paths_of(endpoint):
        answer = asker.ask(endpoint, Case(path=path))
        assert answer.data["sdkVersions"] == asker.world.oracle.list_sdk_versions(path["source"], datetime.now(UTC))
        assert {"sdk": "Perl", "version": "0.9"} not in answer.data["sdkVersions"]


# --- what a key sees ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def acme_key(world: World) -> str:
    return world.tenant.issue_key(customer=ACME)


@each(SERIES)
def test_key_of_a_customer_sees_that_customer_alone(asker: Asker, acme_key: str, endpoint: Endpoint) -> None:
    calls = [Case(cases.recent_weeks(asker.world.sent_at), path) for path in cases.paths_of(endpoint)]
    if endpoint.group_by is not None:
        calls += [Case((*cases.recent_weeks(asker.world.sent_at), (endpoint.group_by, endpoint.groups[0])))]

    oracle = asker.world.oracle_of_acme
    differences = [line for case in calls for line in asker.differences(endpoint, case, key=acme_key, oracle=oracle)]

    assert not differences, "\n".join(differences)
    assert asker.ask(endpoint, calls[0], key=acme_key).data["series"] != asker.ask(endpoint, calls[0]).data["series"]


def test_lists_of_a_customer_are_of_that_customer_alone(asker: Asker, acme_key: str) -> None:
    sdks, versions = get_endpoint("mau_sdks_by_type"), get_endpoint("stream_usage_sdkversion")
    oracle, now = asker.world.oracle_of_acme, datetime.now(UTC)

    listed = asker.ask(sdks, Case(), key=acme_key).data["sdks"]
    listed_versions = asker.ask(versions, Case(path={"source": "client"}), key=acme_key).data["sdkVersions"]

    assert listed == oracle.list_sdks(sdks, (), now)
    assert listed_versions == oracle.list_sdk_versions("client", now)


def test_bearer_before_the_key_is_taken_too(asker: Asker) -> None:
    endpoint = get_endpoint("mau_total")

    assert asker.ask(endpoint, Case(), key=f"Bearer {asker.world.key}").status == 200


# --- the primary kind of a month ----------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def kinds_tenant(make_tenant: Callable[[str], Tenant], world: World) -> Tenant:
    """Contexts of one month, `kind-key` each, that client-side and server-side SDKs of three customers saw."""
    tenant = make_tenant("Vandelay")
    tenant.install_catalog()
    seen = {
        ("even", "client"): ["user-1", "device-1"],
        ("even", "server"): ["user-2", "user-3"],
        ("things", "client"): ["device-1", "organization-1"],
        ("things", "server"): ["device-2", "organization-2", "organization-3"],
        ("servers", "server"): ["user-9", "device-8", "device-9"],
    }
    tenant.post(
        "/v1/events",
        [
            {
                "customer": customer,
                "type": "ld_contexts",
                "timestamp": world.sent_at.isoformat(),
                "properties": {"contextKey": key, "contextKind": key.partition("-")[0], "sdkType": type},
            }
            for (customer, type), keys in seen.items()
            for key in keys
        ],
    )
    return tenant


@pytest.mark.parametrize(
    ("customer", "total"),
    [("even", 3), ("things", 2), ("servers", 1), (None, 4)],
    ids=["user-before-others", "else-by-name", "user-without-any", "of-all-customers"],
)
def test_kind_seen_most_by_client_side_sdks_is_counted(
    asker: Asker, kinds_tenant: Tenant, customer: str | None, total: int
) -> None:
    query = ("from", cases.milliseconds(asker.world.sent_at)), ("granularity", "monthly")

    answer = asker.ask(get_endpoint("mau_total"), Case(query), key=kinds_tenant.issue_key(customer=customer))

    assert answer.data["series"][0]["0"] == total
