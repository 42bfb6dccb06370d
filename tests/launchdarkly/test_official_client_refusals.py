"""What the official client's 23 methods are refused, both versions, and that it can read every refusal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.clients.web_server import WebServer
from tests.launchdarkly import cases
from tests.launchdarkly.cases import Case
from tests.launchdarkly.client import Answer
from tests.launchdarkly.conftest import Asker, Tenant, World
from tests.launchdarkly.contract import ENDPOINTS, ERROR_CODES, Endpoint, get_endpoint
from tests.launchdarkly.oracle import SOURCES, Ids
from tests.launchdarkly.seed import draw_events
from tests.runtime.installation import free_port

pytestmark = pytest.mark.django_db

# The client has an exception for these alone.
EXCEPTIONS = {
    400: "BadRequestException",
    401: "UnauthorizedException",
    403: "ForbiddenException",
    404: "NotFoundException",
    405: "ApiException",
    429: "ApiException",
    503: "ServiceException",
}
CODES = {int(status): code for status, code in ERROR_CODES.items()} | {405: "method_not_allowed"}
# An answer with `Retry-After` would have the client sleep inside the call, three times.
NO_SLEEP_SECONDS = 5
CONTEXTS_METRIC = "ld_contexts"

each_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.id)


def misfits(endpoint: Endpoint, answer: Answer, status: int, what: object = "") -> list[str]:
    """Return nothing if the answer is that refusal, in words that the client understands."""
    told = f"{endpoint.method} {what}: {answer.status} {answer.exception} {answer.body}"
    if answer.status != status or answer.exception != EXCEPTIONS[status]:
        return [f"{told}, not {status}"]
    body = json.loads(answer.body or "")
    if body.keys() != {"code", "message"} or body["code"] != CODES[status] or not body["message"]:
        return [f"{told}, in other words"]
    # The client leaves `data` empty where its version does not document the status.
    return [f"{told}, as {answer.error}"] if endpoint.has(status) and answer.error != body else []


def check(found: Iterable[list[str]]) -> None:
    wrong = [line for lines in found for line in lines]
    assert not wrong, "\n".join(wrong[:20])


def any_case(endpoint: Endpoint) -> Case:
    return Case(path=cases.paths_of(endpoint)[0])


# --- the request --------------------------------------------------------------------------------------------------


@each_endpoint
def test_malformed_request_is_refused(asker: Asker, endpoint: Endpoint) -> None:
    calls = [Case(case.query, cases.paths_of(endpoint)[0]) for case in cases.malformed(endpoint, asker.world.sent_at)]

    check(misfits(endpoint, asker.ask(endpoint, case), 400, case) for case in calls)


def test_unknown_group_is_named(asker: Asker) -> None:
    endpoint = get_endpoint("mau_clientside")

    answer = asker.ask(endpoint, Case((("groupBy", "sdkVersion"),)))

    assert answer.error == {"code": "invalid_request", "message": "Invalid group by argument: sdkVersion"}


@each_endpoint
def test_resource_that_does_not_exist_is_not_found(asker: Asker, endpoint: Endpoint) -> None:
    check(misfits(endpoint, asker.ask(endpoint, case), 404, case) for case in cases.absent(endpoint))


@each_endpoint
def test_other_verb_is_refused(asker: Asker, endpoint: Endpoint) -> None:
    path = cases.paths_of(endpoint)[0]
    for verb in ("POST", "DELETE"):
        answer = asker.client.call_raw(asker.world.tenant.url, asker.world.key, endpoint, (), path, verb=verb)
        check([misfits(endpoint, answer, 405, verb)])


# --- the key ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def useless_keys(world: World) -> dict[str, str | None]:
    expires_at = datetime.now(UTC) + timedelta(seconds=1)
    expired = world.tenant.issue_key(expires_at=expires_at.isoformat())
    revoked = world.tenant.post("/v1/api-keys", {"name": "revoked", "scopes": ["usage:read"]})
    world.tenant.post(f"/v1/api-keys/{revoked['api_key']['id']}/revoke", {})
    time.sleep(max(0.0, (expires_at - datetime.now(UTC)).total_seconds()) + 0.1)
    keys = {"expired": expired, "revoked": revoked["text"], "altered": world.key[:-1] + "!", "foreign": "api-1234-abcd"}
    return keys | {"none": None}


@each_endpoint
def test_nobody_without_a_valid_key_gets_in(
    asker: Asker, useless_keys: dict[str, str | None], endpoint: Endpoint
) -> None:
    url, path = asker.world.tenant.url, cases.paths_of(endpoint)[0]

    check(
        misfits(endpoint, asker.client.call(url, key, endpoint, (), path), 401, why)
        for why, key in useless_keys.items()
    )


@pytest.fixture(scope="package")
def narrow_keys(world: World) -> dict[str, str]:
    return {
        "cannot read": world.tenant.issue_key("events:write", "metrics:write"),
        "one metric": world.tenant.issue_key("usage:read", metrics=[CONTEXTS_METRIC]),
    }


@each_endpoint
def test_key_without_the_scope_or_the_metric_is_forbidden(
    asker: Asker, narrow_keys: dict[str, str], endpoint: Endpoint
) -> None:
    case = any_case(endpoint)
    check([misfits(endpoint, asker.ask(endpoint, case, key=narrow_keys["cannot read"]), 403)])

    answer = asker.ask(endpoint, case, key=narrow_keys["one metric"])

    if endpoint.id == "mau_sdks_by_type" or getattr(SOURCES.get(endpoint.id), "type", "") == CONTEXTS_METRIC:
        assert answer.data == asker.ask(endpoint, case).data
    else:
        check([misfits(endpoint, answer, 403)])


@pytest.fixture(scope="package")
def foreign(make_tenant: Callable[[str], Tenant], world: World) -> World:
    """Another organization, whose usage is a little of what the first one's is."""
    tenant = make_tenant("Hooli")
    tenant.install_catalog()
    events = draw_events(world.sent_at)[::9]
    tenant.send(events)
    return World(tenant, tenant.issue_key(), events, world.sent_at, Ids({}, {}))


@each_endpoint
def test_foreign_key_sees_its_own_organization_alone(asker: Asker, foreign: World, endpoint: Endpoint) -> None:
    case, now = any_case(endpoint), datetime.now(UTC)
    if endpoint.values != "list":
        case = Case(cases.recent_weeks(now), case.path)
        differences = asker.differences(endpoint, case, key=foreign.key, oracle=foreign.oracle)
        assert not differences, "\n".join(differences)
    elif endpoint.id == "mau_sdks_by_type":
        assert asker.ask(endpoint, case, key=foreign.key).data["sdks"] == foreign.oracle.list_sdks(endpoint, (), now)
    else:
        listed = asker.ask(endpoint, case, key=foreign.key).data["sdkVersions"]
        assert listed == foreign.oracle.list_sdk_versions(case.path["source"], now)


# --- the organization and the server ------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def bare(make_tenant: Callable[[str], Tenant]) -> Tenant:
    """An organization that has not installed the catalog."""
    return make_tenant("Globex")


@each_endpoint
def test_without_the_catalog_nothing_is_found_and_the_way_there_is_told(
    asker: Asker, bare: Tenant, endpoint: Endpoint
) -> None:
    answer = asker.ask(endpoint, any_case(endpoint), key=bare.key)

    check([misfits(endpoint, answer, 404)])
    assert "POST /v1/catalogs/launchdarkly/install" in json.loads(answer.body or "")["message"]


@pytest.fixture(scope="package")
def limited_key(make_tenant: Callable[[str], Tenant]) -> str:
    """The key of an organization that allows each one request a minute."""
    tenant = make_tenant("Umbrella")
    key = tenant.issue_key()
    tenant.patch("/v1/organization", {"rate_limit_per_minute": 1})
    return key


@each_endpoint
def test_too_many_requests_are_refused_at_once(asker: Asker, limited_key: str, endpoint: Endpoint) -> None:
    # The first one, also that of a new minute, may still fit.
    answers = [asker.ask(endpoint, any_case(endpoint), key=limited_key) for _ in range(3)]
    refused = [answer for answer in answers if answer.status == 429]
    now = time.time()

    assert len(refused) >= 2
    check(misfits(endpoint, answer, 429) for answer in refused)
    assert all(answer.seconds < NO_SLEEP_SECONDS for answer in refused)
    headers = refused[-1].headers
    assert (headers["x-ratelimit-auth-token-limit"], headers["x-ratelimit-auth-token-remaining"]) == ("1", "0")
    assert now - 1 < int(headers["x-ratelimit-auth-token-reset"]) / 1000 < now + 180
    assert "retry-after" not in headers


@pytest.fixture(scope="package")
def cut_off_server(server: WebServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """A web server whose database does not answer."""
    port = free_port()
    environment = server.environment | {
        "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/nothing",
        "PORT": str(port),
    }
    cut_off = WebServer(port, environment, tmp_path_factory.mktemp("cut-off") / "web.log")
    cut_off.start()
    yield cut_off
    cut_off.stop()


@each_endpoint
def test_outage_of_the_database_is_told_at_once(asker: Asker, cut_off_server: WebServer, endpoint: Endpoint) -> None:
    path = cases.paths_of(endpoint)[0]

    answer = asker.client.call(cut_off_server.url, asker.world.key, endpoint, (), path)

    check([misfits(endpoint, answer, 503)])
    assert answer.seconds < NO_SLEEP_SECONDS
