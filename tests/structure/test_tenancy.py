"""Every tenant's row says whose it is, its keys begin with that, and no code reads it without asking for one tenant."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.db import models

from common.models import TenantManager

ROOT = Path(settings.BASE_DIR)

# Models that belong to no organization, each with its reason.
WITHOUT_ORGANIZATION = {
    "accounts.User": "a person may belong to several organizations",
    "accounts.Organization": "is the tenant itself",
    "weave.QuarantinedRecord": "a record of an instance that nobody has mapped belongs to nobody yet",
    "billing.StripeEvent": "Stripe speaks to the installation's account, and whose event it is turns out later",
    "influx.AnonymousReport": "came without a token, so that nobody knows whose it is",
}
# What may follow `Model.objects`: the two ways to read, and writes of rows that carry their organization.
WAYS_IN = {"for_organization", "all_tenants", "bulk_create"}
WAYS_IN_NAMING_IT = {"create", "get_or_create", "update_or_create"}
MANAGERS = {"objects", "_default_manager", "_base_manager"}
# Unique within the whole installation on purpose, each with its reason.
GLOBALLY_UNIQUE = {
    "accounts.ApiKey.prefix": "a request names its key before it has an organization",
    "accounts.Invitation.token_hash": "a visitor names the invitation before they have an organization",
    "billing.BillingProfile.customer": "a customer is of one organization already",
    "billing.Budget.subscription": "a subscription is of one organization already",
    "billing.StripeInvoice.invoice": "an invoice is of one organization already",
    "weave.Instance.internal_instance_id": "all that names a tenant at the forward port, which is not authenticated",
}


def is_ours(path: Path) -> bool:
    return path.is_relative_to(ROOT) and ".venv" not in path.parts


OUR_APPS = [config for config in apps.get_app_configs() if is_ours(Path(config.path))]
OUR_MODELS = [model for config in OUR_APPS for model in config.get_models()]
TENANT_MODELS = [model for model in OUR_MODELS if model._meta.label not in WITHOUT_ORGANIZATION]


def label(model: type[models.Model]) -> str:
    return model._meta.label


def leads_with_organization(fields: list[str]) -> bool:
    return bool(fields) and fields[0].lstrip("-") in {"organization", "organization_id"}


@pytest.mark.parametrize("model", TENANT_MODELS, ids=label)
class TestSchema:
    def test_row_names_its_organization(self, model: type[models.Model]) -> None:
        column = model._meta.get_field("organization")

        assert isinstance(column, models.ForeignKey)
        assert column.related_model is apps.get_model("accounts.Organization")
        assert not column.null

    def test_manager_asks_whose_rows(self, model: type[models.Model]) -> None:
        assert isinstance(model._default_manager, TenantManager)

    def test_composite_keys_and_indexes_begin_with_the_organization(self, model: type[models.Model]) -> None:
        key = model._meta.pk
        if isinstance(key, models.CompositePrimaryKey):
            assert leads_with_organization(list(key.field_names))
        for constraint in model._meta.constraints:
            if isinstance(constraint, models.UniqueConstraint):
                assert leads_with_organization(list(constraint.fields)), constraint.name
        for index in model._meta.indexes:
            assert leads_with_organization(list(index.fields)), index.name

    def test_nothing_else_is_unique_without_a_reason(self, model: type[models.Model]) -> None:
        for column in model._meta.local_fields:
            if column.unique and not column.primary_key:
                assert f"{label(model)}.{column.name}" in GLOBALLY_UNIQUE


def test_exceptions_still_exist() -> None:
    assert set(WITHOUT_ORGANIZATION) <= {label(model) for model in OUR_MODELS}
    for name in GLOBALLY_UNIQUE:
        model_name, _, column = name.rpartition(".")
        assert apps.get_model(model_name)._meta.get_field(column).unique


def source_files() -> Iterator[Path]:
    for config in OUR_APPS:
        for path in sorted(Path(config.path).rglob("*.py")):
            if "migrations" not in path.parts:
                yield path


def unscoped_reads(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of each use of a tenant model's manager that neither scopes nor creates."""
    tenant_names = {model.__name__ for model in TENANT_MODELS}
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and node.attr in MANAGERS):
            continue
        owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        if owner in tenant_names and not is_way_in(parents[node], parents.get(parents[node])):
            yield node.lineno, ast.unparse(parents[node])


def is_way_in(member: ast.AST, call: ast.AST | None) -> bool:
    """Tell whether `Model.objects.<member>(…)` scopes a read, or writes rows that name their organization."""
    if not isinstance(member, ast.Attribute):
        return False
    if member.attr in WAYS_IN:
        return True
    keywords = {keyword.arg for keyword in call.keywords} if isinstance(call, ast.Call) else set()
    return member.attr in WAYS_IN_NAMING_IT and not keywords.isdisjoint({"organization", "organization_id"})


@pytest.mark.parametrize("path", list(source_files()), ids=lambda path: str(path.relative_to(ROOT)))
def test_tenants_rows_are_read_for_one_tenant(path: Path) -> None:
    assert list(unscoped_reads(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    ("source", "is_refused"),
    [
        ("Customer.objects.filter(pk=1)", True),
        ("models.Customer.objects.get(pk=1)", True),
        ("rows = Customer.objects", True),
        ("Customer._default_manager.count()", True),
        ("Customer.objects.for_organization(org).filter(pk=1)", False),
        ("Customer.objects.all_tenants()", False),
        ("Customer.objects.create(organization=org)", False),
        ("Customer.objects.get_or_create(organization_id=1, name='x')", False),
        ("Customer.objects.get_or_create(external_id='x')", True),
        ("User.objects.get(pk=1)", False),
    ],
)
def test_the_reader_of_sources_sees(source: str, is_refused: bool) -> None:
    assert bool(list(unscoped_reads(ast.parse(source)))) is is_refused
