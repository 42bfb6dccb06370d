"""Writes of the rate table. A rate never changes: another row takes its place, from a day on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from django.db import IntegrityError, transaction

from accounts.models import Organization
from accounts.services import record_audit
from accounts.services.audit import refuse_invalid
from billing.models import TaxRate
from billing.queries.tax_rates import list_tax_rates
from common.errors import Conflict, FieldError, InvalidInput
from common.numbers import exact_text

MAX_PERCENT_PLACES = 6
MAX_TAX_RATES = 1000
FIRST_YEAR, LAST_YEAR = 1970, 9000
CODE = re.compile(r"[a-z0-9_.:-]{1,64}\Z")
COUNTRY = re.compile(r"[A-Z]{2}\Z")


class TaxRateExists(Conflict):
    code = "already_exists"


class TooManyTaxRates(Conflict):
    code = "too_many"


@dataclass(frozen=True, slots=True)
class TaxRateDefinition:
    """`valid_until` is the last day. Without a country it holds wherever no rate names the country."""

    code: str
    name: str
    percent: Decimal
    country: str = ""
    region: str = ""
    valid_from: date | None = None
    valid_until: date | None = None


@transaction.atomic
def create_tax_rate(
    *,
    organization: Organization,
    definition: TaxRateDefinition,
    actor: str,
    now: datetime,
    replaces: TaxRate | None = None,
) -> TaxRate:
    """Add a row. The one that it replaces holds up to the day before this one begins.

    Raises `InvalidInput`, and `TaxRateExists` for a code that a row has which is not archived.
    """
    # Two requests wait for each other, so that the bound holds and nothing is replaced twice.
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    problems = list(_problems(definition))
    if problems:
        raise InvalidInput(f"{problems[0].field}: {problems[0].message}", errors=problems)
    if list_tax_rates(organization=organization).count() >= MAX_TAX_RATES:
        raise TooManyTaxRates(f"An organization has up to {MAX_TAX_RATES} tax rates; archive one.")
    if replaces is not None:
        _end(replaces, definition)
    row = TaxRate(
        organization=organization,
        created_at=now,
        **{name: getattr(definition, name) for name in TaxRateDefinition.__slots__},
    )
    refuse_invalid(row)
    try:
        with transaction.atomic():
            row.save()
    except IntegrityError:
        raise TaxRateExists(f"There is a tax rate with the code {definition.code!r}.") from None
    details = {"percent": exact_text(row.percent), "country": row.country, "region": row.region}
    if replaces is not None:
        details["replaces"] = replaces.code
    _record(row, "tax_rate.created", actor, details)
    return row


@transaction.atomic
def archive_tax_rate(*, tax_rate: TaxRate, actor: str, now: datetime) -> TaxRate:
    """Take a row out of the table: no invoice that is finalised from now on has it. Again: nothing."""
    rows = TaxRate.objects.for_organization(tax_rate.organization_id).select_for_update().select_related(None)
    locked: TaxRate = rows.get(pk=tax_rate.pk)
    locked.organization = tax_rate.organization
    if locked.archived_at is None:
        locked.archived_at = now
        locked.save(update_fields=["archived_at"])
        _record(locked, "tax_rate.archived", actor, {})
    return locked


def _problems(definition: TaxRateDefinition) -> Iterator[FieldError]:
    if not CODE.match(definition.code):
        yield FieldError("code", "invalid_code", "A code has lower-case letters, digits and _ . : -.")
    percent = definition.percent
    if not 0 <= percent <= 100:
        yield FieldError("percent", "out_of_range", "From 0 to 100.")
    elif percent != percent.quantize(Decimal(1).scaleb(-MAX_PERCENT_PLACES)):
        yield FieldError("percent", "max_decimal_places", f"With at most {MAX_PERCENT_PLACES} decimals.")
    yield from list_place_problems(definition.country, definition.region)
    for name in ("valid_from", "valid_until"):
        day: date | None = getattr(definition, name)
        if day is not None and not FIRST_YEAR <= day.year <= LAST_YEAR:
            yield FieldError(name, "out_of_range", f"A day from {FIRST_YEAR} to {LAST_YEAR}.")
    start, last = definition.valid_from, definition.valid_until
    if start is not None and last is not None and last < start:
        yield FieldError("valid_until", "invalid_combination", "The last day is not before the first.")


def list_place_problems(country: str, region: str) -> Iterator[FieldError]:
    """Yield what is wrong with a place: a country is named by two capitals, and a region lies in one."""
    if country and not COUNTRY.match(country):
        yield FieldError("country", "invalid_country", "Two capitals of ISO 3166-1, like DE.")
    if region and not country:
        yield FieldError("region", "invalid_combination", "Name the country of the region.")


def _end(replaced: TaxRate, definition: TaxRateDefinition) -> None:
    """Have the replaced row end the day before. Raises `InvalidInput` where that leaves no day of it."""
    start = definition.valid_from
    if start is None:
        raise InvalidInput.of("valid_from", "Say from which day on it takes the other's place.", "required")
    if (replaced.country, replaced.region) != (definition.country, definition.region):
        raise InvalidInput.of("replaces", "The other rate is of another place.", "invalid_combination")
    locked: TaxRate = TaxRate.objects.for_organization(replaced.organization_id).get(pk=replaced.pk)
    is_past = locked.valid_until is not None and locked.valid_until < start
    if locked.archived_at is not None or is_past:
        raise InvalidInput.of("replaces", "The other rate holds no more on that day.", "invalid_combination")
    if locked.valid_from is not None and start <= locked.valid_from:
        message = "The other rate begins on that day or later; archive it instead."
        raise InvalidInput.of("valid_from", message, "invalid_combination")
    locked.valid_until = start - timedelta(days=1)
    locked.save(update_fields=["valid_until"])


def _record(tax_rate: TaxRate, action: str, actor: str, details: dict[str, str]) -> None:
    record_audit(organization=tax_rate.organization, actor=actor, action=action, target=tax_rate.code, details=details)
