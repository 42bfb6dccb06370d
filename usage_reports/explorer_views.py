"""The pages of the explorer: the whole, its part that is renewed in place, the export, and what a search suggests."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import organization_page, render_page, text_parameter
from common.errors import InvalidInput
from metering.export_files import answer_with_file
from metering.export_formats import FORMATS
from usage_reports.contexts.explorer.page import get_explorer_page, get_export
from usage_reports.contexts.explorer.suggestions import list_suggestions


@require_safe
@organization_page
def explorer(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.USAGE_READ)
    page = get_explorer_page(request, caller)
    return render_page(request, caller, "usage_reports/explorer.html", page, section="explorer", status=page.status)


@never_cache
@require_safe
@organization_page
def explorer_panel(request: HttpRequest, caller: Caller) -> HttpResponse:
    """The part of the page that a choice changes: the same partial as the page's own."""
    caller.require(Scope.USAGE_READ)
    page = get_explorer_page(request, caller)
    return render_page(
        request, caller, "usage_reports/explorer_panel.html", page, section="explorer", status=page.status
    )


@require_safe
@organization_page
def explorer_export(request: HttpRequest, caller: Caller) -> HttpResponseBase:
    caller.require(Scope.USAGE_READ)
    export_format = FORMATS.get(request.GET.get("format", "csv"))
    if export_format is None:
        raise InvalidInput.of("format", f"A file is one of {', '.join(FORMATS)}.", "invalid_choice")
    selection, table = get_export(request.GET, caller)
    return answer_with_file(table, selection, export_format)


@never_cache
@require_safe
@organization_page
def explorer_suggestions(request: HttpRequest, caller: Caller) -> JsonResponse:
    """Known values that hold what has been typed: of the dimension `key` of `metric`, or of customers' ids."""
    caller.require(Scope.USAGE_READ)
    values = list_suggestions(
        caller,
        metric_code=request.GET.get("metric", ""),
        key=request.GET.get("key", ""),
        typed=text_parameter(request, "typed"),
    )
    return JsonResponse({"values": values})
