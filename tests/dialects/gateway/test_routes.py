"""Routes over the API: what they may be, who may change them, and which of them a request belongs to."""

import json
from typing import Any

import pytest
from django.test import Client

from accounts.models import AuditEntry, Organization, Scope
from metering.dialects.gateway.domain import Metering, RouteTable, pattern_shape
from metering.dialects.gateway.models import Route
from tests import factories

pytestmark = pytest.mark.django_db
JSON = "application/json"


def post(client: Client, **fields: Any) -> Any:
    return client.post("/v1/routes", json.dumps(fields), content_type=JSON)


def patch(client: Client, code: str, **fields: Any) -> Any:
    return client.patch(f"/v1/routes/{code}", json.dumps(fields), content_type=JSON)


def refusal(answer: Any) -> tuple[int, str, str]:
    body = answer.json()
    return answer.status_code, body["errors"][0]["field"], body["errors"][0]["code"]


def make_metric(client: Client, **fields: Any) -> None:
    metric = {"code": "ai_tokens", "aggregation": "sum", "event_type": "api_request", "value_property": "tokens"}
    answer = client.post("/v1/metrics", json.dumps(metric | fields), content_type=JSON)
    assert answer.status_code == 201, answer.content


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "shape"),
        [
            ("/", "/"),
            ("*", "*"),
            ("/users", "/users"),
            ("/users/", "/users/"),
            ("/users/{id}", "/users/{}"),
            ("/users/{user_id}/orders/{order}", "/users/{}/orders/{}"),
            ("/files/*", "/files/*"),
            ("/v1/a-b_c.d~e", "/v1/a-b_c.d~e"),
        ],
    )
    def test_have_a_shape(self, pattern: str, shape: str) -> None:
        assert pattern_shape(pattern) == shape

    @pytest.mark.parametrize(
        "pattern",
        [
            "users",
            "/users/{id",
            "/users/{}",
            "/users/{1}",
            "/a*",
            "/*/a",
            "/a?b",
            "/a b",
            "/a\n",
            "/" + "a/" * 32,
            "{id}",
        ],
    )
    def test_that_match_nothing_sensible_are_refused(self, pattern: str) -> None:
        with pytest.raises(ValueError, match=r"\.$"):
            pattern_shape(pattern)


def table(*routes: str) -> RouteTable:
    """Routes written `METHOD pattern`; each is called as it is written."""
    split = [(route, *route.split(" ")) for route in routes]
    return RouteTable(
        (method, pattern_shape(pattern), Metering(name, "request", "reject")) for name, method, pattern in split
    )


def found(routes: RouteTable, method: str, path: str) -> str | None:
    metering = routes.find_by_path(method, path)
    return metering.route_id if metering else None


class TestMatching:
    ROUTES = table(
        "* /users",
        "GET /users/{id}",
        "* /users/{id}",
        "* /users/me",
        "* /users/{id}/orders",
        "POST /users/me/avatar",
        "* /files/*",
        "* /files/{name}/size",
        "* /files/{name}/*",
    )

    @pytest.mark.parametrize(
        ("method", "path", "route"),
        [
            ("GET", "/users", "* /users"),
            ("GET", "/users/7", "GET /users/{id}"),
            ("PUT", "/users/7", "* /users/{id}"),
            ("GET", "/users/me", "* /users/me"),
            ("GET", "/users/7/orders", "* /users/{id}/orders"),
            # `me` leads nowhere here, the parameter does.
            ("GET", "/users/me/orders", "* /users/{id}/orders"),
            ("POST", "/users/me/avatar", "POST /users/me/avatar"),
            ("GET", "/users/me/avatar", None),
            ("GET", "/users/", None),
            ("GET", "/users/7/", None),
            ("GET", "/Users", None),
            ("GET", "/", None),
            ("GET", "/files", None),
            ("GET", "/files/a", "* /files/*"),
            ("GET", "/files/a/size", "* /files/{name}/size"),
            ("GET", "/files/a/b", "* /files/{name}/*"),
            ("GET", "/files/a/b/c/d", "* /files/{name}/*"),
            ("GET", "/files//b", "* /files/*"),
        ],
    )
    def test_finds_the_most_specific(self, method: str, path: str, route: str | None) -> None:
        assert found(self.ROUTES, method, path) == route

    def test_a_star_alone_takes_what_nobody_else_does(self) -> None:
        routes = table("* *", "GET /users")

        assert found(routes, "GET", "/users") == "GET /users"
        assert found(routes, "POST", "/users") == "* *"
        assert found(routes, "GET", "/") == found(routes, "GET", "/a/b/c") == "* *"

    def test_without_routes_finds_none(self) -> None:
        assert found(table(), "GET", "/users") is None

    def test_a_hostile_path_costs_no_more_than_the_tree_has_places(self) -> None:
        # Every segment could be a word or the parameter: each combination is a route of its own.
        routes = [
            "* /" + "/".join("a" if number >> bit & 1 else "{p}" for bit in range(8)) + "/end" for number in range(256)
        ]

        assert found(table(*routes), "GET", "/" + "a/" * 8 + "nowhere") is None


BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"id": "a b"}, "id", "invalid_id"),
    ({"id": ".."}, "id", "invalid_id"),
    ({"id": ""}, "id", "blank"),
    ({"method": "GET POST"}, "method", "invalid"),
    ({"path_pattern": "users"}, "path_pattern", "invalid_pattern"),
    ({"path_pattern": "/" + "a" * 512}, "path_pattern", "max_length"),
    ({"metering_mode": "tokens"}, "metering_mode", "invalid_choice"),
    ({"on_metering_error": "two"}, "on_metering_error", "invalid_choice"),
    ({"metering_mode": "custom"}, "metering_expr", "required"),
    ({"metering_mode": "response_field", "metering_expr": ""}, "metering_expr", "required"),
    ({"metering_mode": "bytes", "metering_expr": "1"}, "metering_expr", "invalid_combination"),
    ({"metering_expr": 5}, "metering_expr", "invalid"),
    ({"metric": "none"}, "metric", "not_found"),
    ({"metric": "api_tokens\x00"}, "metric", "null_characters_not_allowed"),
    ({"meter": "x"}, "meter", "unknown_field"),
]
BAD_EXPRESSIONS = [
    ("custom", "request.body.items.length * ", "invalid_expression", 29),
    ("custom", "1 + tokens", "unknown_name", 5),
    ("custom", "1 + 'a'", "wrong_type", 5),
    ("custom", "1" * 1001, "too_long", 1001),
    ("custom", "__import__('os').system('id')", "invalid_expression", 24),
    ("response_field", "request.body.tokens", "not_a_field", 14),
    ("response_field", "response.body.a + 1", "not_a_field", 17),
]
BAD_METRICS: list[dict[str, Any]] = [
    {"aggregation": "count"},
    {"aggregation": "max"},
    {"event_type": "other"},
    {"value_property": None},
    {"value_property": "total_bytes"},
    {"value_property": "status"},
]


class TestCreate:
    def test_answers_the_route_with_its_defaults(self, api_client: Client) -> None:
        answer = post(api_client, id="users-api", path_pattern="/users/{id}")

        assert answer.status_code == 201
        body = answer.json()
        assert body.pop("created_at") == body.pop("updated_at")
        assert body == {
            "id": "users-api",
            "name": "/users/{id}",
            "method": "*",
            "path_pattern": "/users/{id}",
            "metering_mode": "request",
            "metering_expr": None,
            "metric": None,
            "on_metering_error": "reject",
        }

    def test_of_the_seed_s_modes_is_taken(self, api_client: Client) -> None:
        make_metric(api_client)
        for number, fields in enumerate(
            [
                {"metering_mode": "request"},
                {"metering_mode": "bytes"},
                {
                    "metering_mode": "response_field",
                    "metering_expr": "response.body.tokens_used",
                    "metric": "ai_tokens",
                },
                {
                    "metering_mode": "custom",
                    "metering_expr": "request.body.items.length * 0.5",
                    "on_metering_error": "one",
                },
            ]
        ):
            answer = post(
                api_client, id=f"r{number}", name="A route", method="post", path_pattern=f"/r{number}", **fields
            )

            assert answer.status_code == 201, answer.content
            expected = {"method": "POST", "metering_expr": None, "metric": None, "on_metering_error": "reject"} | fields
            assert answer.json().items() >= expected.items()

    def test_makes_up_an_id_where_none_is_given(self, api_client: Client) -> None:
        ids = {post(api_client, path_pattern=f"/r{number}").json()["id"] for number in range(3)}

        assert len(ids) == 3
        assert all(api_client.get(f"/v1/routes/{code}").status_code == 200 for code in ids)

    def test_refuses_what_has_no_meaning(self, api_client: Client) -> None:
        for fields, field, code in BAD_FIELDS:
            assert refusal(post(api_client, **({"id": "r", "path_pattern": "/r"} | fields))) == (422, field, code), (
                fields
            )
        assert not Route.objects.all_tenants().exists()

    def test_refuses_a_wrong_expression_with_the_column(self, api_client: Client) -> None:
        for mode, text, code, column in BAD_EXPRESSIONS:
            answer = post(api_client, metering_mode=mode, metering_expr=text)
            assert refusal(answer) == (422, "metering_expr", code), text
            assert (answer.json()["code"], answer.json()["column"]) == (code, column)

    def test_refuses_a_metric_that_units_cannot_reach(self, api_client: Client) -> None:
        for number, fields in enumerate(BAD_METRICS):
            make_metric(api_client, code=f"m{number}", **fields)
            assert refusal(post(api_client, metric=f"m{number}")) == (422, "metric", "invalid_combination"), fields

    def test_refuses_an_id_or_a_shape_that_is_taken(self, api_client: Client) -> None:
        post(api_client, id="a", path_pattern="/users/{id}")

        assert refusal(post(api_client, id="a", path_pattern="/other")) == (409, "id", "already_exists")
        assert refusal(post(api_client, id="b", path_pattern="/users/{user}")) == (
            409,
            "path_pattern",
            "already_exists",
        )
        assert post(api_client, id="b", method="GET", path_pattern="/users/{user}").status_code == 201
        assert post(api_client, id="c").status_code == post(api_client, id="d").status_code == 201

    def test_has_a_limit(self, api_client: Client, org: Organization) -> None:
        Route.objects.bulk_create(Route(organization=org, code=f"r{number}", name="r") for number in range(1000))

        assert refusal(post(api_client, id="one-more")) == (422, "id", "too_many")


class TestChange:
    def test_changes_what_is_named(self, api_client: Client) -> None:
        post(api_client, id="r", name="Old", path_pattern="/r", metering_mode="custom", metering_expr="1")

        changed = patch(api_client, "r", metering_expr="2", name="New")

        assert changed.status_code == 200
        assert changed.json().items() >= {"name": "New", "metering_expr": "2", "metering_mode": "custom"}.items()
        assert api_client.get("/v1/routes/r").json() == changed.json()

    def test_examines_the_route_as_a_whole(self, api_client: Client) -> None:
        post(api_client, id="r", metering_mode="custom", metering_expr="request.body.n")

        assert refusal(patch(api_client, "r", metering_mode="request")) == (422, "metering_expr", "invalid_combination")
        assert refusal(patch(api_client, "r", metering_mode="response_field"))[2] == "not_a_field"
        assert refusal(patch(api_client, "r", metering_expr=None)) == (422, "metering_expr", "required")
        assert patch(api_client, "r", metering_mode="request", metering_expr=None).status_code == 200

    def test_to_a_taken_shape_is_refused(self, api_client: Client) -> None:
        post(api_client, id="a", path_pattern="/a/{x}")
        post(api_client, id="b", path_pattern="/b")

        assert refusal(patch(api_client, "b", path_pattern="/a/{y}")) == (409, "path_pattern", "already_exists")

    def test_never_changes_the_id(self, api_client: Client) -> None:
        post(api_client, id="r")

        assert refusal(patch(api_client, "r", id="s")) == (422, "id", "unknown_field")

    def test_deletes(self, api_client: Client) -> None:
        post(api_client, id="r")

        assert api_client.delete("/v1/routes/r").status_code == 204
        assert api_client.get("/v1/routes/r").status_code == api_client.delete("/v1/routes/r").status_code == 404

    def test_is_written_in_the_audit_log(self, api_client: Client, org: Organization) -> None:
        post(api_client, id="r", metering_mode="bytes")
        patch(api_client, "r", metering_mode="request")
        patch(api_client, "r", metering_mode="request")
        api_client.delete("/v1/routes/r")

        entries = AuditEntry.objects.for_organization(org).filter(action__startswith="route.").order_by("pk")
        assert [(entry.action, entry.target) for entry in entries] == [
            ("route.created", "r"),
            ("route.updated", "r"),
            ("route.deleted", "r"),
        ]
        assert entries[1].details == {"metering_mode": {"from": "bytes", "to": "request"}}


class TestAccess:
    def test_lists_the_own_routes_in_pages(self, api_client: Client, outsider_client: Client) -> None:
        for code in ("c", "a", "b"):
            post(api_client, id=code)
        post(outsider_client, id="z")

        first = api_client.get("/v1/routes", {"limit": 2}).json()
        second = api_client.get("/v1/routes", {"limit": 2, "cursor": first["next_cursor"]}).json()

        assert [route["id"] for route in first["data"] + second["data"]] == ["a", "b", "c"]
        assert second["next_cursor"] is None

    def test_foreign_routes_are_absent_ones(self, api_client: Client, outsider_client: Client) -> None:
        post(api_client, id="r")

        assert outsider_client.get("/v1/routes/r").status_code == 404
        assert patch(outsider_client, "r", name="x").status_code == 404
        assert outsider_client.delete("/v1/routes/r").status_code == 404
        assert api_client.get("/v1/routes/r").json()["name"] == "r"

    def test_needs_the_scopes(self, org: Organization, api_client_for: Any) -> None:
        reader = api_client_for(factories.make_api_key(organization=org, scopes=(Scope.USAGE_READ,)))
        sender = api_client_for(factories.make_api_key(organization=org, scopes=(Scope.EVENTS_WRITE,)))

        assert reader.get("/v1/routes").status_code == 200
        assert post(reader, id="r").status_code == 403
        assert sender.get("/v1/routes").status_code == 403

    def test_a_foreign_metric_is_no_metric(self, api_client: Client, outsider_client: Client) -> None:
        make_metric(api_client)

        assert refusal(post(outsider_client, metric="ai_tokens")) == (422, "metric", "not_found")
