"""What the client must notice, in the two shapes that it reads; any status but 401, 404, 422 and 500 is success to it.

Also what the framework refuses before a view is asked, on every path below `/api/v1/`.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from accounts.models import Organization, Scope
from accounts.services import IssuedKey, revoke_api_key
from metering.dialects.influx.api import views
from metering.dialects.influx.models import AnonymousReport, Server
from metering.models import Event
from tests import factories
from tests.dialects.influx.conftest import JSON, SERVER, Post, stats_body, usage_entry
from tests.dialects.influx.usage_client import SimpleError, Success, ValidationErrors, judge

pytestmark = pytest.mark.django_db

REPORTS = (("/servers", SERVER), ("/stats/influxdb", stats_body()), ("/usage/influxdb", usage_entry(n=1)))


def read_as_client(response: Any) -> dict[str, Any]:
    """Return a refusal's body; fails where the client would not notice it or could not read it."""
    assert response["Connection"] == "close"
    match judge(response.status_code, response.content):
        case SimpleError(message):
            assert message
        case ValidationErrors(errors):
            assert errors
            assert all(errors.values())
        case Success():
            pytest.fail(f"{response.status_code} is success to the client")
    body: dict[str, Any] = json.loads(response.content)
    assert body["error"]
    return body


class TestToken:
    def test_unknown_expired_revoked_and_too_weak_ones_are_401(self, post: Post, org: Organization) -> None:
        now = timezone.now()
        revoked = factories.make_api_key(organization=org)
        revoke_api_key(organization=org, actor="test", api_key=revoked.api_key, now=now)
        tokens = [
            "tok-abc",
            "mb_000000000000_" + "0" * 64,
            f"Bearer {factories.make_api_key(organization=org).text}",
            factories.make_api_key(organization=org, expires_at=now - timedelta(seconds=1)).text,
            factories.make_api_key(organization=org, scopes=(Scope.USAGE_READ,)).text,
            revoked.text,
            "\xff",
        ]
        for path, body in REPORTS:
            for token in tokens:
                response = post(path, body, token=token)
                assert response.status_code == 401, token
                read_as_client(response)
        assert not Server.objects.for_organization(org).exists()
        assert not AnonymousReport.objects.exists()

    def test_writing_events_is_all_that_a_token_needs(self, post: Post, org: Organization) -> None:
        key = factories.make_api_key(organization=org, scopes=(Scope.EVENTS_WRITE,))
        for path, body in REPORTS:
            assert post(path, body, token=key.text).status_code == 201


class TestServerFields:
    def test_blank_ones_are_told_in_the_words_of_old(self, post: Post) -> None:
        response = post("/servers", dict.fromkeys(SERVER, ""))

        assert response.status_code == 422
        assert read_as_client(response)["errors"] == {
            "cluster_id": ["ClusterID can not be blank."],
            "host": ["Host can not be blank."],
            "product": ["Product can not be blank."],
            "server_id": ["ServerID can not be blank."],
            "version": ["Version can not be blank."],
        }

    @pytest.mark.parametrize("name", SERVER)
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (None, "can not be blank."),
            ("  ", "can not be blank."),
            (7, "must be a string."),
            (["x"], "must be a string."),
            ("x" * 257, "is longer than"),
            ("a\u0000b", "has a control character in it."),
        ],
        ids=["null", "spaces", "number", "array", "long", "NUL"],
    )
    def test_each_is_examined(self, post: Post, org: Organization, name: str, value: Any, message: str) -> None:
        response = post("/servers", SERVER | {name: value})

        assert response.status_code == 422
        [told] = read_as_client(response)["errors"].pop(name)
        assert message in told
        assert not Server.objects.for_organization(org).exists()

    def test_members_that_are_not_known_do_no_harm(self, post: Post) -> None:
        assert post("/servers", SERVER | {"more": {"a": 1}}).status_code == 201


class TestBodies:
    @pytest.mark.parametrize(
        ("path", "body", "field"),
        [
            ("/servers", "[]", "body"),
            ("/servers", "null", "body"),
            ("/stats/p", "[]", "body"),
            ("/stats/p", "{}", "cluster_id"),
            ("/stats/p", '{"cluster_id": "c", "server_id": 5, "stats": null}', "server_id"),
            ("/stats/p", '{"cluster_id": "c", "server_id": "s", "stats": {}}', "stats"),
            ("/stats/p", '{"cluster_id": "c", "server_id": "s", "stats": [1]}', "stats[0]"),
            ("/stats/p", '{"cluster_id": "c", "server_id": "s", "stats": [{"name": ""}]}', "stats[0].name"),
            ("/usage/p", "{}", "usage"),
            ("/usage/p", '"text"', "usage"),
            ("/usage/p", "[null]", "usage[0]"),
            ("/usage/p", '[{"tags": {"a": 1}}]', "usage[0].tags"),
            ("/usage/p", '[{"tags": []}]', "usage[0].tags"),
            ("/usage/p", '[{"values": [1]}]', "usage[0].values"),
            ("/usage/p", '[{"values": {"a\\u0000": 1}}]', "usage[0].values"),
            ("/usage/p", '[{"values": {"%s": 1}}]' % ("f" * 257), "usage[0].values"),
            ("/usage/p", '[{"tags": {"t": "%s"}, "values": null}]' % ("v" * 1000), "usage[0].tags"),
            ("/usage/p", '[{"values": {"cluster_id": true}}]', "usage[0].values.cluster_id"),
            ("/usage/", "[]", "product"),
            ("/stats/", '{"cluster_id": "c", "server_id": "s"}', "product"),
            ("/usage/" + "p" * 101, "[]", "product"),
            ("/usage/a%00b", "[]", "product"),
            ("/usage/a%0Ab", "[]", "product"),
        ],
    )
    def test_a_body_of_another_form_is_422_at_its_field(self, post: Post, path: str, body: str, field: str) -> None:
        response = post(path, body)

        assert response.status_code == 422, response.content
        assert field in read_as_client(response)["errors"]

    @pytest.mark.parametrize(
        "body",
        ["", "{", "nul", "\x00", '{"a": 1} x', '"\\ud800"', "[" * 100_000, '[{"values": {"n": NaN}}]', b"\xff"],
        ids=["empty", "open", "word", "NUL", "rest", "surrogate", "deep", "NaN", "not UTF-8"],
    )
    def test_what_is_no_json_is_422(self, post: Post, api_key: IssuedKey, body: Any) -> None:
        for token in (api_key.text, None):
            for path in ("/servers", "/stats/p", "/usage/p"):
                response = post(path, body, token=token)
                assert response.status_code == 422, response.content
                read_as_client(response)
        assert not AnonymousReport.objects.exists()

    def test_a_number_of_thousands_of_digits_is_422(self, post: Post) -> None:
        response = post("/usage/p", '[{"values": {"n": %s}}]' % ("9" * 5000))
        assert response.status_code == 422
        read_as_client(response)

    def test_too_long_a_body_is_422_and_not_stored(self, post: Post, org: Organization) -> None:
        response = post("/usage/p", "[" + " " * views.MAX_BODY_BYTES + "]")
        assert response.status_code == 422
        assert read_as_client(response)["code"] == "body_too_large"

    def test_too_many_values_are_422_and_none_is_stored(self, post: Post, org: Organization) -> None:
        entry = {"name": "many", "tags": None, "values": {str(number): number for number in range(20_001)}}
        response = post("/stats/p", stats_body(entry))
        assert response.status_code == 422
        assert read_as_client(response)["code"] == "too_many_values"
        assert not Event.objects.for_organization(org).exists()

    def test_too_many_servers_are_422(self, post: Post, org: Organization) -> None:
        response = post("/usage/p", [usage_entry(server_id=str(number))[0] for number in range(101)])
        assert response.status_code == 422
        assert read_as_client(response)["code"] == "too_many_servers"
        assert not Server.objects.for_organization(org).exists()

    def test_an_encoding_that_nobody_knows_is_422(self, post: Post) -> None:
        response = post("/servers", SERVER, **{"Content-Encoding": "br"})
        assert response.status_code == 422
        read_as_client(response)

    def test_the_content_type_does_not_matter(self, client: Client, api_key: IssuedKey) -> None:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            headers = {"X-Authorization": api_key.text}
            answer = client.generic("POST", "/api/v1/servers", json.dumps(SERVER), content_type=kind, headers=headers)
            assert answer.status_code == 201


class TestFramework:
    def test_unknown_paths_are_404(self, client: Client) -> None:
        for path in ("", "server", "servers/", "stats", "usage", "a/b%0Ac"):
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
                response = client.generic(method, f"/api/v1/{path}")
                assert response.status_code == 404, (method, path)
                read_as_client(response)

    def test_other_methods_are_404(self, client: Client) -> None:
        for path in ("servers", "stats/p", "usage/p", "usage/"):
            for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
                response = client.generic(method, f"/api/v1/{path}", "{}", content_type=JSON)
                assert response.status_code == 404, (method, path)
                read_as_client(response)

    def test_a_doubled_slash_is_the_same_path(self, client: Client, api_key: IssuedKey) -> None:
        """The path stands in the environment: the test client takes what follows two slashes for a host."""
        headers = {"X-Authorization": api_key.text}
        for path, body in REPORTS:
            answer = client.post("/", body, content_type=JSON, headers=headers, PATH_INFO=f"//api/v1{path}")
            assert answer.status_code == 201
        for response in (client.get("/", PATH_INFO="//api/v1/servers"), client.post("/", PATH_INFO="//api/v1/x")):
            assert response.status_code == 404
            read_as_client(response)

    def test_no_proof_against_forgery_is_asked_for(self) -> None:
        client = Client(enforce_csrf_checks=True)
        assert client.post("/api/v1/servers", SERVER, content_type=JSON).status_code == 201
        assert client.post("/api/v1/nothing", SERVER, content_type=JSON).status_code == 404

    def test_a_host_that_is_not_ours_is_422(self, client: Client, settings: Any) -> None:
        settings.ALLOWED_HOSTS = ["example.com"]
        response = client.post("/api/v1/nothing", SERVER, content_type=JSON, headers={"Host": "evil.test"})
        assert response.status_code == 422
        read_as_client(response)

    def test_every_prefix_has_its_shape(self) -> None:
        assert {"/api/v1/", "//api/v1/"} <= settings.API_ERRORS.keys()


# Anything that JSON can say, with the words of this dialect among it.
WORDS = st.sampled_from(
    ["cluster_id", "server_id", "host", "product", "version", "name", "tags", "values", "stats", "n"]
)
NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([9007199254740993, 2**64, -(2**63), 10**30, 1e308, 5e-324]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20))
VALUES = st.one_of(st.none(), st.dictionaries(st.one_of(WORDS, st.text(max_size=8)), SCALARS, max_size=5), SCALARS)
TAGS = st.one_of(st.none(), st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=8), SCALARS), max_size=3))
ENTRIES = st.fixed_dictionaries({}, optional={"name": st.one_of(SCALARS, st.just("e")), "tags": TAGS, "values": VALUES})
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(WORDS, st.text()), inner, max_size=4)
    ),
    max_leaves=10,
)
SERVERS = st.fixed_dictionaries(dict.fromkeys(SERVER, st.one_of(SCALARS, st.just("x"))))
STATS = st.fixed_dictionaries(
    {"cluster_id": st.just("c"), "server_id": st.just("s"), "stats": st.lists(ENTRIES, max_size=3)}
)


class TestAnyBody:
    @hypothesis_settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        path=st.sampled_from(["/servers", "/stats/p", "/usage/p", "/usage/a b", "/nothing"]),
        body=st.one_of(SERVERS, STATS, st.lists(ENTRIES, max_size=3), ANYTHING).map(json.dumps),
        is_anonymous=st.booleans(),
    )
    def test_is_taken_or_refused_so_that_the_client_can_read_it(
        self, post: Post, api_key: IssuedKey, path: str, body: str, is_anonymous: bool
    ) -> None:
        response = post(path.replace(" ", "%20"), body, token=None if is_anonymous else api_key.text)

        if response.status_code != 201:
            assert response.status_code in {404, 422}, response.content
            read_as_client(response)

    @hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(body=st.binary(max_size=60), path=st.sampled_from(["/servers", "/stats/p", "/usage/p"]))
    def test_any_bytes_too(self, post: Post, path: str, body: bytes) -> None:
        response = post(path, body)

        assert response.status_code in {201, 422}, response.content
