"""`docs/gateway.md` says what the code does."""

import re

from django.conf import settings
from drf_spectacular.generators import SchemaGenerator

from metering.catalogs import API_GATEWAY
from metering.dialects.gateway.expressions import compile_expression
from metering.dialects.gateway.expressions.functions import COALESCE, FUNCTIONS
from metering.dialects.gateway.models import ErrorPolicy, MeteringMode
from metering.dialects.gateway.recording import RequestRecord

TEXT = (settings.BASE_DIR / "docs" / "gateway.md").read_text()


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """Return what the first column of a section's tables names."""
    return [
        name for cell in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", cell)
    ]


def test_every_field_of_a_record_is_explained_and_in_the_openapi_document() -> None:
    explained = [
        name for name in first_cells(section("Recording")) if not name.startswith("api_") or name == "api_key_id"
    ]
    schema = SchemaGenerator().get_schema(request=None, public=True)["components"]["schemas"]["RequestRecord"]

    assert sorted(explained) == sorted(RequestRecord.__struct_fields__) == sorted(schema["properties"])


def test_every_metric_of_the_catalog_is_explained() -> None:
    named = [name for name in first_cells(section("Recording")) if name.startswith("api_") and name != "api_key_id"]

    assert named == [metric.code for metric in API_GATEWAY.metrics]


def test_modes_and_policies_are_explained() -> None:
    assert first_cells(section("Routes")) == ["metering_mode", *MeteringMode.values]
    assert all(f"`{policy}`" in section("Expressions") for policy in ErrorPolicy.values)


def test_the_expressions_can_be_saved() -> None:
    shown = re.findall(r"^    (.+)$", section("Expressions"), re.MULTILINE)

    assert len(shown) == 5
    for text in shown:
        compile_expression(text)


def test_every_function_and_every_reason_is_named() -> None:
    text = section("Expressions")
    modules = (settings.BASE_DIR / "metering/dialects/gateway").rglob("*.py")
    raised = {code for path in modules for code in re.findall(r'MeteringError\(\s*"(\w+)"', path.read_text())}

    assert all(f"`{name}" in text for name in [*FUNCTIONS, COALESCE])
    assert set(first_cells(text)) == raised | {"missing_field", "metering_error"}
