"""What every route does with odd requests: bodies that are no JSON, compressed bodies, wrong methods, wrong paths."""

import gzip
import json
from typing import Any

import pytest
import zstandard
from django.db import OperationalError
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import Organization
from common.api import MAX_BODY_BYTES

pytestmark = pytest.mark.django_db
JSON = "application/json"


def assert_error(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer["Content-Type"]) == (status, JSON), answer.content
    body: dict[str, Any] = answer.json()
    assert set(body) >= {"code", "message", "errors"}
    assert body["code"] == code
    return body


class TestBody:
    @pytest.mark.parametrize(
        ("body", "position"),
        [
            (b'{"name" "x"}', 8),
            (b"{", 1),
            (b"{} {}", 3),
            (b"nonsense", 4),
            (b'{"name": NaN}', 9),
            (b"\xff\xfe", 0),
            (b'{"name": "\xed\xa0\x80"}', None),
            (b'{"name": "\\ud800"}', None),
            (b"[" * 100_000, None),
        ],
    )
    def test_malformed_json_is_400_with_its_position(
        self, api_client: Client, body: bytes, position: int | None
    ) -> None:
        answer = api_client.patch("/v1/organization", body, content_type=JSON)

        told = assert_error(answer, 400, "malformed_json")
        if position is not None:
            assert abs(told["position"] - position) <= 1  # the decoder counts from what it expected next

    def test_number_beyond_all_bounds_is_422(self, api_client: Client) -> None:
        answer = api_client.patch("/v1/organization", b'{"late_limit_days": ' + b"9" * 5000 + b"}", content_type=JSON)

        assert_error(answer, 422, "number_out_of_range")

    @pytest.mark.parametrize("exponent", [b"1e400", b"1e999999999", b"-1e99999999999999999999"])
    def test_huge_exponent_costs_nothing(self, api_client: Client, exponent: bytes) -> None:
        answer = api_client.patch("/v1/organization", b'{"late_limit_days": ' + exponent + b"}", content_type=JSON)

        assert answer.status_code in {400, 422}

    @pytest.mark.parametrize(
        "content_type", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"]
    )
    def test_other_types_are_415(self, api_client: Client, content_type: str) -> None:
        answer = api_client.generic("PATCH", "/v1/organization", b'{"name": "x"}', content_type=content_type)

        assert_error(answer, 415, "unsupported_media_type")

    def test_charset_is_no_other_type(self, api_client: Client) -> None:
        answer = api_client.generic(
            "PATCH", "/v1/organization", b'{"name": "x"}', content_type="application/json; charset=utf-8"
        )

        assert answer.status_code == 200

    def test_too_large_is_413(self, api_client: Client) -> None:
        answer = api_client.patch("/v1/organization", b" " * (MAX_BODY_BYTES + 1), content_type=JSON)

        assert_error(answer, 413, "body_too_large")

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        body=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["name", "zone", "late_limit_days", "is_unmatched_kept"]) | st.text(),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=8,
        )
    )
    def test_no_json_is_a_500(self, api_client: Client, body: object) -> None:
        text = json.dumps(body)  # lone surrogates become escapes

        for method, path in (
            ("PATCH", "/v1/organization"),
            ("POST", "/v1/customers"),
            ("POST", "/v1/api-keys"),
            ("POST", "/v1/projects"),
            ("POST", "/v1/invitations"),
        ):
            answer = api_client.generic(method, path, text, content_type=JSON)
            assert answer.status_code in {200, 201, 400, 403, 409, 422}, (path, answer.content)


class TestCompression:
    def zstd_stream(self, content: bytes) -> bytes:
        compressor = zstandard.ZstdCompressor().compressobj()
        return compressor.compress(content) + compressor.flush()

    def send(self, client: Client, body: bytes, encoding: str) -> Any:
        return client.patch("/v1/organization", body, content_type=JSON, headers={"Content-Encoding": encoding})

    @pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "zstd", "zstd-stream", "identity", ""])
    def test_understood(self, api_client: Client, org: Organization, encoding: str) -> None:
        content = b'{"name": "squeezed"}'
        body = {
            "zstd": zstandard.ZstdCompressor().compress(content),
            "zstd-stream": self.zstd_stream(content),
            "identity": content,
            "": content,
        }.get(encoding, gzip.compress(content))

        answer = self.send(api_client, body, encoding.partition("-")[0] if "zstd" in encoding else encoding)

        assert answer.json()["name"] == "squeezed"

    @pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "x" * 1000])
    def test_others_are_415_and_told_what_is(self, api_client: Client, encoding: str) -> None:
        answer = self.send(api_client, b"{}", encoding)

        assert_error(answer, 415, "unsupported_encoding")
        assert answer["Accept-Encoding"] == "gzip, zstd, identity"

    def test_cut_short_or_nonsense_is_400(self, api_client: Client) -> None:
        content = json.dumps({"name": "x" * 100}).encode()
        zstd = zstandard.ZstdCompressor().compress(content)
        for body, encoding in (
            (gzip.compress(content)[:-9], "gzip"),
            (b"nonsense", "gzip"),
            (zstd[:-3], "zstd"),
            (self.zstd_stream(content)[:-3], "zstd"),
            (zstd + zstd, "zstd"),
            (b"nonsense", "zstd"),
        ):
            assert_error(self.send(api_client, body, encoding), 400, "malformed_compression")

    def test_bombs_are_413(self, api_client: Client) -> None:
        bomb = b" " * 200_000_000
        for body, encoding in (
            (gzip.compress(bomb, compresslevel=1), "gzip"),
            (zstandard.ZstdCompressor().compress(bomb), "zstd"),
            (self.zstd_stream(bomb), "zstd"),
        ):
            assert len(body) < MAX_BODY_BYTES
            assert_error(self.send(api_client, body, encoding), 413, "body_too_large")


class TestRouting:
    @pytest.mark.parametrize(
        "path", ["/v1/", "/v1/nothing", "/v1/organization/", "/v1/members/x", "/v1/%00", "/v1/docs/x", "/v1//customers"]
    )
    def test_unknown_paths_are_json(self, api_client: Client, path: str) -> None:
        assert_error(api_client.get(path), 404, "not_found")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("DELETE", "/v1/organization", {"GET", "HEAD", "PATCH"}),
            ("OPTIONS", "/v1/organization", {"GET", "HEAD", "PATCH"}),
            ("PUT", "/v1/customers", {"GET", "HEAD", "POST"}),
            ("GET", "/v1/api-keys/1/revoke", {"POST"}),
            ("BREW", "/v1/members", {"GET", "HEAD"}),
            ("POST", "/v1/openapi.json", {"GET", "HEAD"}),
            ("DELETE", "/v1/docs", {"GET", "HEAD"}),
        ],
    )
    def test_other_methods_are_405_with_allow(
        self, api_client: Client, method: str, path: str, allowed: set[str]
    ) -> None:
        answer = api_client.generic(method, path)

        assert_error(answer, 405, "method_not_allowed")
        assert set(answer["Allow"].split(", ")) == allowed

    def test_head_is_get_without_the_body(self, api_client: Client) -> None:
        answer = api_client.head("/v1/organization")

        assert (answer.status_code, answer.content) == (200, b"")

    @pytest.mark.parametrize("accept", ["text/html", "application/xml", "*/*", "nonsense"])
    def test_answers_are_json_whatever_is_accepted(self, api_client: Client, accept: str) -> None:
        assert api_client.get("/v1/organization", headers={"Accept": accept})["Content-Type"] == JSON

    def test_route_without_a_query_names_unknown_parameters(self, api_client: Client) -> None:
        for path in ("/v1/organization", "/v1/openapi.json"):
            answer = api_client.get(f"{path}?verbose=1")
            assert assert_error(answer, 422, "invalid")["errors"][0]["field"] == "verbose"

    def test_store_that_is_away_is_503_with_retry_after(
        self, api_client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OperationalError("the connection is closed")

        # The database itself cannot be stopped under the other tests; `tests/runtime` kills a real one.
        monkeypatch.setattr("accounts.queries.list_members", fail)

        answer = api_client.get("/v1/members")

        assert_error(answer, 503, "unavailable")
        assert int(answer["Retry-After"]) > 0

    def test_what_nobody_foresaw_is_json_too(self, api_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("accounts.queries.list_members", fail)

        assert_error(api_client.get("/v1/members"), 500, "internal_error")
