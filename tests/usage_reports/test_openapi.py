"""The OpenAPI document says of the LaunchDarkly-style reports what they answer."""

from typing import Any

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db
JSON = "application/json"


@pytest.fixture
def document(client: Client) -> Any:
    return client.get("/v1/openapi.json").json()


def test_every_operation_tells_its_errors_in_the_shape_of_these_clients(document: Any) -> None:
    operations = [
        operation
        for path, methods in document["paths"].items()
        if path.startswith("/api/v2/")
        for operation in methods.values()
    ]

    assert len(operations) == 23
    for operation in operations:
        assert set(operation["responses"]) == {"200", "400", "401", "403", "404", "429", "503"}
        for status in ("400", "401", "403", "404", "429", "503"):
            schema = operation["responses"][status]["content"][JSON]["schema"]
            assert schema == {"$ref": "#/components/schemas/ReportError"}
        assert operation["security"] == [{"bareApiKey": []}]
    assert document["components"]["schemas"]["ReportError"]["required"] == ["code", "message"]


def test_the_bare_key_is_a_scheme(document: Any) -> None:
    scheme = document["components"]["securitySchemes"]["bareApiKey"]
    assert scheme == {"type": "apiKey", "in": "header", "name": "Authorization"}
