"""Writes of plans. A version is changed as a draft; once active, neither it nor its prices ever change again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Max

from accounts.models import Organization
from accounts.services import record_audit
from billing.domain.allocation import PriceFilters, do_overlap
from billing.domain.currencies import EXPONENTS
from billing.domain.prices import Price, PriceModel, Tier, list_problems
from billing.models import Plan, PlanVersion, VersionState
from billing.models import Price as PriceRow
from billing.queries.charges import Charge
from billing.queries.plans import find_current_version
from common.errors import Conflict, FieldError, InvalidInput
from common.numbers import exact_text
from metering.models import ADDITIVE, Metric

MAX_PRICES = 50
MAX_TRIAL_DAYS = 730


class PlanExists(Conflict):
    code = "already_exists"


class VersionIsActive(Conflict):
    code = "immutable"


class PlanIsArchived(Conflict):
    code = "plan_archived"


@dataclass(frozen=True, slots=True)
class PriceDefinition:
    """A price as somebody wrote it. `metric` is a code; None: a fee of the plan itself."""

    price: Price
    metric: str | None = None
    filters: PriceFilters = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, slots=True)
class VersionDefinition:
    """All prices are in the one currency, whatever each of them says."""

    currency: str
    prices: Sequence[PriceDefinition]
    trial_days: int = 0


@transaction.atomic
def create_plan(
    *,
    organization: Organization,
    code: str,
    name: str,
    definition: VersionDefinition,
    actor: str,
    now: datetime,
    description: str = "",
    is_default: bool = False,
    is_active: bool = True,
) -> Plan:
    """Create a plan with its first version. Raises `PlanExists`, or `InvalidInput` at what has no meaning."""
    plan = Plan(organization=organization, code=code, name=name, description=description, created_at=now)
    try:
        with transaction.atomic():
            plan.save(force_insert=True)
    except IntegrityError:
        raise PlanExists(f"There is a plan {code} already; add a version to it.") from None
    details = {"name": name, "description": description}
    _record(plan, "plan.created", actor, details)
    create_version(plan=plan, definition=definition, actor=actor, now=now, is_active=is_active)
    if is_default:
        _make_default(plan, actor)
    return plan


@transaction.atomic
def update_plan(*, plan: Plan, changes: Mapping[str, Any], actor: str) -> Plan:
    """Change name, description, or whether it is the default; another plan that was the default is it no more."""
    locked = _lock(plan)
    changed = {
        name: value for name, value in changes.items() if name != "is_default" and getattr(locked, name) != value
    }
    if changed:
        details = {name: {"from": getattr(locked, name), "to": value} for name, value in changed.items()}
        for name, value in changed.items():
            setattr(locked, name, value)
        locked.save(update_fields=list(changed))
        _record(locked, "plan.updated", actor, details)
    is_default = changes.get("is_default", locked.is_default)
    if is_default and not locked.is_default:
        if locked.archived_at is not None:
            raise PlanIsArchived("An archived plan cannot be the default.")
        _make_default(locked, actor)
    elif locked.is_default and not is_default:
        _unmake_default(locked, actor)
    return locked


@transaction.atomic
def archive_plan(*, plan: Plan, actor: str, now: datetime) -> Plan:
    """Let nobody subscribe to it any more; those who have go on. Idempotent."""
    locked = _lock(plan)
    if locked.archived_at is not None:
        return locked
    if locked.is_default:
        _unmake_default(locked, actor)
    locked.archived_at = now
    locked.save(update_fields=["archived_at"])
    _record(locked, "plan.archived", actor, {})
    return locked


# --- versions -------------------------------------------------------------------------------------------------


@transaction.atomic
def create_version(
    *, plan: Plan, definition: VersionDefinition, actor: str, now: datetime, is_active: bool = False
) -> PlanVersion:
    """Add the plan's next version. Those who have subscribed keep theirs."""
    locked = _lock(plan)
    charges = resolve_charges(organization=locked.organization, definition=definition)
    last = PlanVersion.objects.for_organization(locked.organization_id).filter(plan=locked).aggregate(Max("number"))
    version = PlanVersion.objects.create(
        organization=locked.organization,
        plan=locked,
        number=(last["number__max"] or 0) + 1,
        currency=definition.currency,
        trial_days=definition.trial_days,
        created_at=now,
    )
    _save_prices(version, charges)
    _record(locked, "plan.version_created", actor, _details(version, charges))
    if is_active:
        return activate_version(version=version, actor=actor, now=now)
    return version


@transaction.atomic
def replace_draft(*, version: PlanVersion, definition: VersionDefinition, actor: str) -> PlanVersion:
    """Give a draft other prices, all of them. Raises `VersionIsActive` for what is no draft."""
    locked = _lock_draft(version)
    charges = resolve_charges(organization=locked.organization, definition=definition)
    locked.currency, locked.trial_days = definition.currency, definition.trial_days
    locked.save(update_fields=["currency", "trial_days"])
    PriceRow.objects.for_organization(locked.organization_id).filter(version=locked).delete()
    _save_prices(locked, charges)
    _record(locked.plan, "plan.version_changed", actor, _details(locked, charges))
    return locked


@transaction.atomic
def activate_version(*, version: PlanVersion, actor: str, now: datetime) -> PlanVersion:
    """Let new subscriptions have it, and let it never change again. Raises `VersionIsActive` the second time."""
    locked = _lock_draft(version)
    locked.state, locked.activated_at = VersionState.ACTIVE, now
    locked.save(update_fields=["state", "activated_at"])
    _record(locked.plan, "plan.version_activated", actor, {"version": locked.number})
    return locked


def refuse_active(version: PlanVersion) -> None:
    """Raise `VersionIsActive` unless the version is a draft."""
    if version.state != VersionState.DRAFT:
        raise VersionIsActive("An active version never changes; add another one.")


def get_version_to_subscribe(*, plan: Plan, version: PlanVersion | None) -> PlanVersion:
    """Return the version, or the plan's current one. Raises where nobody may subscribe to it."""
    if plan.archived_at is not None:
        raise PlanIsArchived("The plan is archived; nobody subscribes to it any more.")
    chosen = version or find_current_version(plan=plan)
    if chosen is None or chosen.state != VersionState.ACTIVE:
        raise InvalidInput.of("plan", "The version is a draft; activate it first.", "not_active")
    return chosen


# --- what prices mean together --------------------------------------------------------------------------------


def resolve_charges(*, organization: Organization, definition: VersionDefinition) -> list[Charge]:
    """Return the prices with their metrics. Raises `InvalidInput` naming everything that has no meaning."""
    codes = {price.metric for price in definition.prices if price.metric is not None}
    metrics = {metric.code: metric for metric in Metric.objects.for_organization(organization).filter(code__in=codes)}
    problems = list(_version_problems(definition))
    charges: list[Charge] = []
    for place, written in enumerate(definition.prices):
        metric = metrics.get(written.metric) if written.metric is not None else None
        price = replace(written.price, currency=definition.currency)
        charge = Charge(price, metric, written.filters, written.name)
        found = [*_price_problems(written, charge), *_neighbour_problems(charge, charges)]
        problems += [replace(problem, field=f"prices[{place}].{problem.field}") for problem in found]
        charges.append(charge)
    if problems:
        raise InvalidInput(f"{problems[0].field}: {problems[0].message}", errors=problems)
    return charges


def _version_problems(definition: VersionDefinition) -> Iterator[FieldError]:
    if definition.currency not in EXPONENTS:
        yield FieldError("currency", "unknown_currency", "Use a code of ISO 4217, like USD, JPY or KWD.")
    if not 0 <= definition.trial_days <= MAX_TRIAL_DAYS:
        yield FieldError("trial_days", "invalid_value", f"0 to {MAX_TRIAL_DAYS} days.")
    if len(definition.prices) > MAX_PRICES:
        yield FieldError("prices", "too_many", f"At most {MAX_PRICES} prices.")


def _price_problems(written: PriceDefinition, charge: Charge) -> Iterator[FieldError]:
    yield from (problem for problem in list_problems(charge.price) if problem.field != "currency")
    if written.metric is None:
        if charge.price.model != PriceModel.FLAT:
            yield FieldError("metric", "required", "Only a flat price goes without a metric: a fee of the plan itself.")
        if charge.price.included_quantity:
            message = "A fee without a metric has no quantity to include."
            yield FieldError("included_quantity", "invalid_combination", message)
        if charge.filters:
            yield FieldError("filters", "invalid_combination", "A fee without a metric has no dimensions.")
    elif charge.metric is None:
        yield FieldError("metric", "unknown_metric", "There is no such metric.")
    elif charge.metric.archived_at is not None:
        yield FieldError("metric", "metric_archived", "The metric is archived; nothing uses it any more.")
    else:
        known = {dimension["key"] for dimension in charge.metric.dimensions}
        for key in sorted(set(charge.filters) - known):
            yield FieldError(f"filters.{key}", "unknown_dimension", "The metric has no such dimension.")


def _neighbour_problems(charge: Charge, others: Sequence[Charge]) -> Iterator[FieldError]:
    """Yield how a charge disagrees with those before it: one of the same usage, or of a rest that cannot be told."""
    for place, other in enumerate(others):
        if charge.metric is None or other.metric is None or charge.metric.pk != other.metric.pk:
            continue
        if do_overlap(charge.filters, other.filters):
            yield FieldError("filters", "overlapping_prices", f"prices[{place}] charges some of the same usage.")
        elif charge.metric.aggregation not in ADDITIVE and not (charge.filters and other.filters):
            message = f"A {charge.metric.aggregation} does not add up, so what prices[{place}] leaves is no quantity."
            yield FieldError("filters", "invalid_combination", message)


# --- rows -----------------------------------------------------------------------------------------------------


def _save_prices(version: PlanVersion, charges: Sequence[Charge]) -> None:
    PriceRow.objects.bulk_create(
        PriceRow(
            organization_id=version.organization_id,
            version=version,
            position=position,
            name=charge.name,
            metric=charge.metric,
            filters={key: list(values) for key, values in charge.filters.items()},
            model=charge.price.model,
            amount=charge.price.amount,
            package_size=charge.price.package_size,
            tiers=[_tier_json(tier) for tier in charge.price.tiers],
            included_quantity=charge.price.included_quantity,
            minimum=charge.price.minimum,
            maximum=charge.price.maximum,
        )
        for position, charge in enumerate(charges)
    )


def _tier_json(tier: Tier) -> dict[str, str | None]:
    return {
        "up_to": None if tier.up_to is None else exact_text(tier.up_to),
        "unit_amount": exact_text(tier.unit_amount),
        "flat_amount": exact_text(tier.flat_amount),
    }


def _lock(plan: Plan) -> Plan:
    rows = Plan.objects.for_organization(plan.organization_id).select_related("organization")
    locked: Plan = rows.select_for_update(of=("self",), no_key=True).get(pk=plan.pk)
    return locked


def _lock_draft(version: PlanVersion) -> PlanVersion:
    rows = PlanVersion.objects.for_organization(version.organization_id).select_related("organization", "plan")
    locked: PlanVersion = rows.select_for_update(of=("self",)).get(pk=version.pk)
    refuse_active(locked)
    return locked


def _make_default(plan: Plan, actor: str) -> None:
    """Two at once would break `plan_default_once`; the organization's row lock makes them one after the other."""
    Organization.objects.select_for_update(no_key=True).get(pk=plan.organization_id)
    for former in Plan.objects.for_organization(plan.organization_id).filter(is_default=True):
        _unmake_default(former, actor)
    plan.is_default = True
    plan.save(update_fields=["is_default"])
    _record(plan, "plan.made_default", actor, {})


def _unmake_default(plan: Plan, actor: str) -> None:
    plan.is_default = False
    plan.save(update_fields=["is_default"])
    _record(plan, "plan.default_ended", actor, {})


def _details(version: PlanVersion, charges: Sequence[Charge]) -> dict[str, Any]:
    prices = [
        {"metric": charge.metric.code if charge.metric else None, "model": str(charge.price.model)}
        for charge in charges
    ]
    return {
        "version": version.number,
        "currency": version.currency,
        "trial_days": version.trial_days,
        "prices": prices,
    }


def _record(plan: Plan, action: str, actor: str, details: dict[str, Any]) -> None:
    record_audit(organization=plan.organization, actor=actor, action=action, target=plan.code, details=details)
