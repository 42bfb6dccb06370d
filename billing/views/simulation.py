"""The simulator: past usage priced under another version of a plan."""

from __future__ import annotations

from itertools import chain

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import organization_page, render_page
from billing.contexts.simulation import find_question, get_simulation_page, simulation_table
from billing.documents.tables import CONTENT_TYPE
from common.errors import InvalidInput
from metering.export_formats import csv_pieces


@require_safe
@organization_page
def simulator(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Ask for a version and months; with `?version=` the answer stands below."""
    caller.require(Scope.BILLING_READ)
    page = get_simulation_page(request, caller, timezone.now())
    return render_page(request, caller, "billing/simulation.html", page, section="simulator")


@require_safe
@organization_page
def simulation_csv(request: HttpRequest, caller: Caller) -> HttpResponseBase:
    """Everybody, not just those whom the page shows."""
    caller.require(Scope.BILLING_READ)
    now = timezone.now()
    question = find_question(request, caller, now)
    if question is None:
        raise InvalidInput.of("version", "Choose a version and up to twelve months in order.", "required")
    pieces = csv_pieces(simulation_table(caller, question, now))
    # What is refused is refused with a status, before the file has begun.
    first = [next(pieces), next(pieces, b"")]
    file = StreamingHttpResponse(chain(first, pieces), content_type=CONTENT_TYPE)
    name = f"simulation-{question.version.plan.code}-v{question.version.number}"
    file["Content-Disposition"] = f'attachment; filename="{name.replace(":", "_")}.csv"'
    return file
