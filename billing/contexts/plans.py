"""Pages of plans: the list, one with its versions and a preview, and the editor."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.http import HttpRequest
from django.urls import reverse

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import text_parameter, with_parameters
from billing.contexts.preview import DEFAULT_PERCENT, FULL, PricePreview, get_price_preview
from billing.contexts.words import price_text
from billing.forms.plans import PlanEditor
from billing.models import Plan, PlanVersion, VersionState
from billing.queries.charges import Charge, list_charges, list_charges_of
from billing.queries.plans import find_current_version, get_version, list_current_versions, list_plans, list_versions
from common.api import take_page
from common.errors import NotFound

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class PlanRow:
    url: str
    name: str
    code: str
    is_default: bool
    is_archived: bool
    # Empty: there is only a draft.
    version: str
    currency: str
    prices: list[str]


@dataclass(frozen=True, slots=True)
class PlanListPage:
    rows: list[PlanRow]
    new_url: str
    next_url: str
    first_url: str


def get_plan_list(request: HttpRequest, caller: Caller) -> PlanListPage:
    """Three queries, however many plans there are."""
    cursor = text_parameter(request, "cursor")
    rows = list_plans(organization=caller.organization)
    page = take_page(rows, field="code", limit=PAGE_SIZE, cursor=cursor)
    organization_id = caller.organization.pk
    current = list_current_versions(page.rows, organization_id=organization_id)
    charges = list_charges_of(current.values(), organization_id=organization_id)
    here = reverse("billing:plan_list", args=[organization_id])
    return PlanListPage(
        rows=[
            _plan_row(plan, version, charges[version.pk] if version else [])
            for plan in page.rows
            for version in [current.get(plan.pk)]
        ],
        new_url=reverse("billing:new_plan", args=[organization_id]),
        next_url=with_parameters(here, {"cursor": page.next_cursor}) if page.next_cursor else "",
        first_url=here if cursor else "",
    )


def _plan_row(plan: Plan, version: PlanVersion | None, charges: list[Charge]) -> PlanRow:
    return PlanRow(
        url=reverse("billing:plan", args=[plan.organization_id, plan.code]),
        name=plan.name,
        code=plan.code,
        is_default=plan.is_default,
        is_archived=plan.archived_at is not None,
        version=f"v{version.number}" if version else "",
        currency=version.currency if version else "",
        prices=[f"{charge.label}: {price_text(charge)}" for charge in charges],
    )


# --- one plan -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VersionRow:
    number: int
    url: str
    is_shown: bool
    is_draft: bool
    created_at: datetime
    activated_at: datetime | None


@dataclass(frozen=True, slots=True)
class PlanPage:
    plan: Plan
    versions: list[VersionRow]
    # The one that is shown: the current one unless the address names another; None: there is none.
    version: PlanVersion | None
    is_draft: bool
    preview: PricePreview | None
    can_write: bool
    can_be_default: bool


def get_plan_page(request: HttpRequest, caller: Caller, plan: Plan) -> PlanPage:
    versions = list(list_versions(plan=plan).order_by("-number")[:PAGE_SIZE])
    named = text_parameter(request, "version")
    if named:
        if not (named.isascii() and named.isdigit() and len(named) < 10):
            raise NotFound("The plan has no such version.")
        shown: PlanVersion | None = get_version(plan=plan, number=int(named))
    else:
        shown = find_current_version(plan=plan) or next(iter(versions), None)
    here = reverse("billing:plan", args=[plan.organization_id, plan.code])
    preview = None
    if shown is not None:
        percent = read_percent(text_parameter(request, "at"))
        preview = get_price_preview(list_charges(shown), currency=shown.currency, percent=percent)
    return PlanPage(
        plan=plan,
        versions=[
            VersionRow(
                number=version.number,
                url=f"{here}?version={version.number}",
                is_shown=shown is not None and version.pk == shown.pk,
                is_draft=version.state == VersionState.DRAFT,
                created_at=version.created_at,
                activated_at=version.activated_at,
            )
            for version in versions
        ],
        version=shown,
        is_draft=shown is not None and shown.state == VersionState.DRAFT,
        preview=preview,
        can_write=caller.has(Scope.BILLING_WRITE),
        can_be_default=not plan.is_default and plan.archived_at is None,
    )


def read_percent(text: str) -> int:
    """Return where the slider stands; in the middle where the text says nothing of the kind."""
    is_number = text.isascii() and text.isdigit() and len(text) <= 3
    return min(int(text), FULL) if is_number else DEFAULT_PERCENT


# --- the editor -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlanFormPage:
    title: str
    note: str
    cancel_url: str
    editor: PlanEditor
    preview: PricePreview | None
    percent: int


def get_plan_form_page(
    caller: Caller,
    editor: PlanEditor,
    *,
    plan: Plan | None = None,
    version: PlanVersion | None = None,
    preview: PricePreview | None = None,
    percent: int = DEFAULT_PERCENT,
) -> PlanFormPage:
    """Describe the editor of a new plan, of a new version of one, or of a draft."""
    organization_id = caller.organization.pk
    if plan is None:
        cancel_url = reverse("billing:plan_list", args=[organization_id])
        return PlanFormPage("New plan", "", cancel_url, editor, preview, percent)
    cancel_url = reverse("billing:plan", args=[organization_id, plan.code])
    if version is not None:
        title, note = f"Draft v{version.number} of {plan.name}", "Nobody can subscribe to it until it is activated."
    else:
        title, note = f"New version of {plan.name}", "Those who have subscribed keep the version they have."
    return PlanFormPage(title, note, cancel_url, editor, preview, percent)
