"""The analytics page, and the rows that are put on its table while it is open."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import organization_page, render_page
from metering.queries.reading import RangeNotKept
from usage_reports.gateway.contexts.live import keys_of, list_live_rows
from usage_reports.gateway.contexts.page import get_analytics_page, read_page_address
from usage_reports.gateway.engine import explain


@never_cache
@require_safe
@organization_page
def analytics(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.USAGE_READ)
    try:
        page = get_analytics_page(request, caller)
    except RangeNotKept as refusal:
        raise explain(refusal, caller.organization) from refusal
    return render_page(request, caller, "usage_reports/gateway/analytics.html", page, section="analytics")


@never_cache
@require_safe
@organization_page
def live_rows(request: HttpRequest, caller: Caller) -> HttpResponse:
    """The rows of `?key=`, any number of them, that fit the filters; without keys the newest."""
    caller.require(Scope.USAGE_READ)
    selection, *_ = read_page_address(request, caller.organization, timezone.now())
    rows = list_live_rows(selection, keys=keys_of(request))
    return render(request, "usage_reports/gateway/live_rows.html", {"rows": rows})
