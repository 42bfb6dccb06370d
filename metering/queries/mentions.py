"""Where a customer's name is written in the rows of their organization, other than as the customer's own.

Looks through every text and JSON column of every app's tables, so that a table that comes later is looked through
without being named here. Left out are what people defined (metrics, projects, routes), what was printed
on invoices, words of a fixed vocabulary, and the hot tables, which hold no names but in rows of the customer's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from django.apps import apps
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Cast

from accounts.models import Customer, Organization
from common.models import TenantQuerySet

# Definitions: what is named here is named by whoever runs the organization, and numbers depend on it.
DEFINITIONS = frozenset(
    {
        "accounts.Environment",
        "accounts.Invitation",
        "accounts.Membership",
        "accounts.Project",
        "billing.BillingSettings",
        "billing.Plan",
        "billing.PlanVersion",
        "billing.Price",
        "billing.StripeMeter",
        "billing.TaxRate",
        "gateway.GatewaySettings",
        "gateway.Route",
        "metering.Erasure",
        "metering.Feed",
        "metering.Metric",
        "metering.TypeHorizon",
    }
)
# What was printed for somebody who pays is kept as it was: a finalised invoice never changes.
DOCUMENTS = frozenset({"billing.Invoice", "billing.InvoiceLine"})
# Columns of words, of numbers, and of identities that clients hold on to.
FIXED_COLUMNS = frozenset(
    {
        "actor",
        "billed_quantities",
        "catalog",
        "code",
        "currency",
        "email",
        "event_name",
        "event_type",
        "group_by",
        "identifier",
        "message_id",
        "message_type",
        "message_types",
        "metric_codes",
        "month",
        "prefix",
        "public_id",
        "scopes",
        "stripe_customer_id",
        "threshold_code",
        "url",
        "zone",
    }
)
# What is done to a definition says its name, which may be the customer's by chance.
ACTIONS_ON_DEFINITIONS = (
    "billing_settings.",
    "environment.",
    "member.",
    "metric.",
    "organization.",
    "plan.",
    "project.",
    "route.",
    "stripe_meter.",
    "tax_rate.",
)
# Where even a name that could be any word or number is a customer's: columns, keys of JSON, and dimensions.
CUSTOMER_KEYS = frozenset(
    {
        "cluster",
        "cluster_id",
        "customer",
        "customer_external_id",
        "customer_id",
        "external_id",
        "user",
        "user_id",
    }
)
# The column of the audit log that says to what something was done.
TARGET = "target"
STEP_ROWS = 500
NOBODY = Q()

_encoder = msgspec.json.Encoder(decimal_format="number")
_decoder = msgspec.json.Decoder(float_hook=Decimal)


@dataclass(frozen=True, slots=True)
class Name:
    """A customer's name as it is looked for: as a word of its own, unless it is so short that it could be any word."""

    text: str

    @property
    def is_telling(self) -> bool:
        """Whether the name is the customer's wherever it stands: not `5`, and not `eu`."""
        return len(self.text) >= 3 and (not self.text.isdigit() or len(self.text) >= 6)

    @property
    def as_json(self) -> str:
        return _encoder.encode(self.text).decode()[1:-1]

    @property
    def pattern(self) -> re.Pattern[str]:
        """Match the name where it is no part of a longer one: not `acme` in `acme-eu`, but in `of acme.`"""
        return re.compile(rf"(?<![\w@-])(?<!\w\.){re.escape(self.text)}(?![\w@-])(?!\.\w)")

    def replace_in_text(self, text: str, by: str, *, is_named: bool = False) -> str:
        if text == self.text and (is_named or self.is_telling):
            return by
        return self.pattern.sub(by, text) if self.is_telling else text

    def replace_in_json(self, value: Any, by: str, key: str = "") -> Any:
        match value:
            case str():
                return self.replace_in_text(value, by, is_named=key in CUSTOMER_KEYS)
            case dict():
                return {
                    self.replace_in_text(name, by): self.replace_in_json(inner, by, name)
                    for name, inner in value.items()
                }
            case list():
                return [self.replace_in_json(inner, by, key) for inner in value]
        return value


@dataclass(frozen=True, slots=True)
class _Column:
    """A column that may hold names."""

    field: models.Field[Any, Any]

    @property
    def name(self) -> str:
        return self.field.name

    @property
    def is_json(self) -> bool:
        return isinstance(self.field, models.JSONField)

    @property
    def text(self) -> str:
        return f"text_of_{self.name}"

    @property
    def as_text(self) -> Cast:
        return Cast(self.name, models.TextField())

    def mentions(self, name: Name) -> Q:
        """Return the condition that the column's text holds the name somewhere, in whatever form it is stored."""
        return Q(**{f"{self.text}__contains": name.text}) | Q(**{f"{self.text}__contains": name.as_json})

    def replaced(self, value: Any, name: Name, by: str) -> Any:
        if isinstance(value, str) and not self.is_json:
            return self._shortened(_replace_in_column(self.name, value, name, by))
        return name.replace_in_json(value, by, self.name)

    def _shortened(self, text: str) -> str:
        return text if self.field.max_length is None else text[: self.field.max_length]


def _replace_in_column(column: str, text: str, name: Name, by: str) -> str:
    """Replace in a text, or in the strings of a text that is JSON: a number that looks like the name is none."""
    if text[:1] in {"{", "["}:
        try:
            return _encoder.encode(name.replace_in_json(_decoder.decode(text), by)).decode()
        except msgspec.MsgspecError:
            pass  # only looks like it
    if column == TARGET and text.endswith(f" of {name.text}"):
        # What a quota, a threshold or a subscription is called in the audit log: `calls of 5`.
        return f"{text.removesuffix(name.text)}{by}"
    return name.replace_in_text(text, by, is_named=column in CUSTOMER_KEYS)


# --- looking through ------------------------------------------------------------------------------------------


def list_rows_of(*, organization: Organization, customer: Customer) -> Iterator[models.Model]:
    """Yield the rows, of any table but the hot ones, that belong to the customer or in which the name is written."""
    wanted = Name(customer.external_id)
    for model, columns, references in _list_tables():
        belongs = Q()
        for reference in references:
            belongs |= Q(**{reference: customer.pk})
        for row in _iterate(organization, model, columns, wanted, also=belongs):
            is_own = any(getattr(row, reference) == customer.pk for reference in references)
            if is_own or any(column.replaced(value, wanted, "") != value for column, value in _values(row, columns)):
                yield row


def iterate_replacements(
    *, organization: Organization, name: str, by: str, known_by: datetime
) -> Iterator[tuple[models.Model, dict[str, Any]]]:
    """Yield the rows from up to `known_by` in which the name is written, with the columns as they are without it."""
    wanted = Name(name)
    for model, columns, _ in _list_tables():
        for row in _iterate(organization, model, columns, wanted, known_by=known_by) if columns else ():
            new = {
                column.name: replaced
                for column, value in _values(row, columns)
                if (replaced := column.replaced(value, wanted, by)) != value
            }
            if new:
                yield row, new


def _values(row: models.Model, columns: list[_Column]) -> Iterator[tuple[_Column, Any]]:
    for column in columns:
        value = getattr(row, column.name)
        if value:
            yield column, value


def _iterate(
    organization: Organization,
    model: type[models.Model],
    columns: list[_Column],
    name: Name,
    *,
    also: Q = NOBODY,
    known_by: datetime | None = None,
) -> Iterator[Any]:
    """Yield the rows that may hold the name, and others, in the order of their keys; some hundred per query."""
    condition = also
    for column in columns:
        condition |= column.mentions(name)
    if not condition:
        return
    rows = rows_of(model, organization).annotate(**{column.text: column.as_text for column in columns})
    rows = rows.filter(condition).order_by("pk")
    arrival = next((field for field in ("created_at", "received_at") if _has_field(model, field)), None)
    if known_by is not None and arrival is not None:
        rows = rows.filter(**{f"{arrival}__lte": known_by})
    if model._meta.label == "accounts.AuditEntry":
        for prefix in ACTIONS_ON_DEFINITIONS:
            rows = rows.exclude(action__startswith=prefix)
    last: Any = None
    while True:
        step = list((rows if last is None else rows.filter(pk__gt=last))[:STEP_ROWS])
        yield from step
        if len(step) < STEP_ROWS:
            return
        last = step[-1].pk


def rows_of(model: type[models.Model], organization: Organization) -> TenantQuerySet:
    rows: TenantQuerySet = model._default_manager.for_organization(organization)  # type: ignore[attr-defined]
    return rows


def _has_field(model: type[models.Model], name: str) -> bool:
    return any(field.name == name for field in model._meta.concrete_fields)


def _list_tables() -> list[tuple[type[models.Model], list[_Column], list[str]]]:
    """Return every table of tenants with a key of one column, its columns that may hold names, and those that refer to
    a customer."""
    found = []
    for model in apps.get_models():
        meta = model._meta
        if isinstance(meta.pk, models.CompositePrimaryKey) or meta.label in DEFINITIONS:
            continue
        if not hasattr(model._default_manager, "for_organization"):
            continue
        columns = [_Column(field) for field in meta.concrete_fields if _may_hold_names(model, field)]
        references = [field.attname for field in meta.concrete_fields if field.related_model is Customer]
        if columns or references:
            found.append((model, columns, references))
    return found


def _may_hold_names(model: type[models.Model], field: models.Field[Any, Any]) -> bool:
    if model._meta.label in DOCUMENTS or field.name in FIXED_COLUMNS or field.choices or field.primary_key:
        return False
    if model._meta.label == "accounts.Customer" and field.name == "external_id":
        return False  # a customer's own name
    if isinstance(field, ArrayField):
        return isinstance(field.base_field, models.CharField | models.TextField)
    return isinstance(field, models.CharField | models.TextField | models.JSONField)
