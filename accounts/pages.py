"""The frame of every page of an organization: who visits, what they may do, what the navigation offers.

Pages of any app use `organization_page` and `render_page`, and read and write addresses by what stands here. Owns no
permission rule: `accounts.access` answers those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.forms import BaseForm
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from accounts.access import IDS, Caller, caller_for_session
from accounts.models import Organization, Scope, User
from common.errors import ApplicationError, NotFound, PermissionRefused

# Where `/` leads: the organization that this browser looked at last.
LAST_ORGANIZATION = "last_organization_id"
# They hold every id, and Python reads no number of thousands of digits.
MAX_ID_DIGITS = 19

# A page and its form at one address.
read_or_post = require_http_methods(["GET", "HEAD", "POST"])


@dataclass(frozen=True, slots=True)
class NavItem:
    label: str
    icon: str
    url: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class Shell:
    """What surrounds the content: the organization, the person's other ones, the navigation, what is allowed."""

    organization: Organization
    organizations: list[Organization]
    usage_items: list[NavItem]
    alert_items: list[NavItem]
    # Empty: the role may not see what things cost.
    billing_items: list[NavItem]
    settings_items: list[NavItem]
    # Metrics, customers, corrections of events.
    can_develop: bool
    # Plans and subscriptions.
    can_bill: bool
    # Members, keys, settings, the audit log.
    can_administer: bool


# (section, label, icon, URL name). What a role may not open is not offered to it.
USAGE_SECTIONS = (
    ("metrics", "Metrics", "metrics", "metering:metric_list"),
    ("analytics", "Analytics", "analytics", "analytics:page"),
    ("explorer", "Explorer", "explorer", "usage_reports:explorer"),
    ("reports", "Reports", "reports", "usage_reports:report_list"),
    ("customers", "Customers", "customers", "accounts:customer_list"),
    ("fleet", "Fleet", "fleet", "influx:fleet"),
    ("routes", "Routes", "routes", "gateway:route_list"),
    ("events", "Events", "events", "metering:event_list"),
    ("inbox", "Inbox", "inbox", "metering:inbox"),
    ("forwarding", "Forwarding", "forwarding", "weave:forwarding"),
    ("catalogs", "Catalogs", "catalogs", "metering:catalog_list"),
)
ALERT_SECTIONS = (
    ("alerts", "History", "alerts", "alerts:alert_list"),
    ("thresholds", "Thresholds", "thresholds", "alerts:threshold_list"),
    ("quotas", "Quotas", "quotas", "alerts:quota_list"),
    ("webhooks", "Webhooks", "webhooks", "alerts:webhook_list"),
)
BILLING_SECTIONS = (
    ("plans", "Plans", "plans", "billing:plan_list"),
    ("simulator", "Simulator", "simulator", "billing:simulator"),
    ("invoices", "Invoices", "invoices", "billing:invoice_list"),
    ("usage_checks", "Trust", "shield", "billing:usage_checks"),
    ("stripe", "Stripe", "link", "billing:stripe"),
    ("billing_settings", "Billing settings", "settings", "billing:settings"),
)
SETTINGS_SECTIONS = (
    ("members", "Members", "members", "accounts:member_list"),
    ("projects", "Projects", "projects", "accounts:project_list"),
)
ADMIN_SECTIONS = (
    ("keys", "API keys", "keys", "accounts:api_key_list"),
    ("settings", "Settings", "settings", "accounts:organization_settings"),
    ("request_tracking", "Request tracking", "events", "gateway:settings"),
    ("audit", "Audit log", "audit", "accounts:audit_log"),
)


def organization_page(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Give the view its `Caller` instead of the id in the URL, and the organization's time zone.

    A foreign or absent organization is 404; what the services and queries refuse becomes the page that says so.
    """

    @login_required
    @wraps(view)
    def page(request: HttpRequest, organization_id: int, **arguments: Any) -> HttpResponseBase:
        try:
            caller = caller_for_session(request, organization_id)
            if request.session.get(LAST_ORGANIZATION) != caller.organization.pk:
                request.session[LAST_ORGANIZATION] = caller.organization.pk
            with timezone.override(ZoneInfo(caller.organization.zone)):
                return view(request, caller, **arguments)
        except NotFound as error:
            raise Http404(error.message) from error
        except PermissionRefused as error:
            raise PermissionDenied(error.message) from error
        except ApplicationError as error:
            return render(request, "common/refused.html", {"error": error}, status=error.status)

    return page


def render_page(
    request: HttpRequest, caller: Caller, template: str, page: object, *, section: str, status: int = 200
) -> HttpResponse:
    """Render a template with its one context, `page`, inside the organization's frame."""
    shell = get_shell(request, caller, section=section)
    return render(request, template, {"shell": shell, "page": page}, status=status)


def get_shell(request: HttpRequest, caller: Caller, *, section: str) -> Shell:
    """One query: the organizations of the person."""
    organizations = Organization.objects.filter(memberships__user=visitor(request)).order_by("name", "pk")
    can_administer = caller.has(Scope.ADMIN)
    billing_sections = BILLING_SECTIONS if caller.has(Scope.BILLING_READ) else ()
    settings_sections = SETTINGS_SECTIONS + (ADMIN_SECTIONS if can_administer else ())
    return Shell(
        organization=caller.organization,
        organizations=list(organizations),
        usage_items=_nav_items(USAGE_SECTIONS, caller.organization, section),
        alert_items=_nav_items(ALERT_SECTIONS, caller.organization, section),
        billing_items=_nav_items(billing_sections, caller.organization, section),
        settings_items=_nav_items(settings_sections, caller.organization, section),
        can_develop=caller.has(Scope.METRICS_WRITE),
        can_bill=caller.has(Scope.BILLING_WRITE),
        can_administer=can_administer,
    )


def visitor(request: HttpRequest) -> User:
    """Return the person who is signed in. For views behind `login_required` alone."""
    assert isinstance(request.user, User)
    return request.user


def text_parameter(request: HttpRequest, name: str) -> str:
    """Return a query parameter without what PostgreSQL cannot store in a text."""
    return request.GET.get(name, "").replace("\x00", "").strip()


def read_id(text: str) -> int | None:
    """Read the id of a row, or a position of that size; None where no row can have it."""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS):
        return None
    number = int(text)
    return number if number in IDS else None


def with_parameters(url: str, parameters: Mapping[str, str | int]) -> str:
    return f"{url}?{urlencode(parameters)}" if parameters else url


@dataclass(frozen=True, slots=True)
class ShownPage:
    """Rows of a list, and where the next page and the first one are. Empty: there is none; this is the first."""

    rows: list[Any]
    next_url: str
    first_url: str


def page_before(
    request: HttpRequest,
    rows: QuerySet[Any],
    *,
    size: int,
    parameters: Mapping[str, str | int] | None = None,
    position: str = "pk",
) -> ShownPage:
    """Return a page, newest first; `before` in the address is the `position` of the page before's last row.

    Ids grow with time, and they are unique where times are not. `parameters` are the list's filters, kept on every
    page. One query.
    """
    kept = parameters or {}
    before = read_id(text_parameter(request, "before"))
    if before is not None:
        rows = rows.filter(**{f"{position}__lt": before})
    found = list(rows.order_by(f"-{position}")[: size + 1])
    shown = found[:size]
    return ShownPage(
        rows=shown,
        next_url=with_parameters("", {**kept, "before": getattr(shown[-1], position)}) if len(found) > size else "",
        first_url="" if before is None else with_parameters("", kept) or "?",
    )


def add_errors(form: BaseForm, error: ApplicationError) -> None:
    """Show a service's refusal in the form: at its fields where it names them, else above all."""
    if not error.errors:
        form.add_error(None, error.message)
    for problem in error.errors:
        form.add_error(problem.field if problem.field in form.fields else None, problem.message)


def _nav_items(
    sections: tuple[tuple[str, str, str, str], ...], organization: Organization, current: str
) -> list[NavItem]:
    return [
        NavItem(label, icon, reverse(url_name, args=[organization.pk]), section == current)
        for section, label, icon, url_name in sections
    ]
