"""Pages about servers that report through the usage-client: the fleet, one server, and registering a cluster."""

from __future__ import annotations

from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import Caller, caller_for_session
from accounts.domain import Scope
from accounts.pages import organization_page, read_or_post, render_page
from common.content_security import HEADER, content_security_policy
from common.errors import ApplicationError, NotFound
from metering.dialects.influx.contexts.fleet import get_fleet_page
from metering.dialects.influx.contexts.server import get_server_page
from metering.dialects.influx.contexts.start import get_start_page, list_own_organizations
from metering.dialects.influx.forms import StartForm
from metering.dialects.influx.queries.fleet import get_server
from metering.dialects.influx.redirects import Registration, parse_registration
from metering.dialects.influx.services.registration import register_cluster


@require_safe
@organization_page
def fleet(request: HttpRequest, caller: Caller) -> HttpResponse:
    return render_page(request, caller, "influx/fleet.html", get_fleet_page(request, caller), section="fleet")


@require_safe
@organization_page
def server(request: HttpRequest, caller: Caller, server_id: int) -> HttpResponse:
    found = get_server(organization=caller.organization, server_id=server_id)
    page = get_server_page(request, caller, found)
    return render_page(request, caller, "influx/server.html", page, section="fleet")


@never_cache
@read_or_post
def start(request: HttpRequest) -> HttpResponse:
    """Where the client sends a person: they choose an organization, and the product gets a token for it.

    What is asked for stands in the address, on the way back from signing in as on POST, which adds the decision.
    """
    registration, problems = parse_registration(request.GET)
    if registration is None:
        return render(request, "influx/start_refused.html", {"problems": problems}, status=422)
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    own = list_own_organizations(request)
    form = StartForm(request.POST if request.method == "POST" else None, organizations=own)
    if form.is_valid():
        try:
            return _register(request, registration, form.cleaned_data["organization"])
        except NotFound as error:
            raise Http404(error.message) from error
        except ApplicationError as error:
            return render(request, "common/refused.html", {"error": error}, status=error.status)
    return _answer(request, registration, get_start_page(registration, form if own else None))


def _register(request: HttpRequest, registration: Registration, organization_id: int) -> HttpResponse:
    caller = caller_for_session(request, organization_id)
    caller.require(Scope.ADMIN)
    issued = register_cluster(
        organization=caller.organization,
        actor=caller.actor,
        product=registration.product,
        cluster_id=registration.cluster_id,
    )
    if registration.target is not None:
        return HttpResponseRedirect(registration.target.with_token(issued.text))
    return _answer(request, registration, get_start_page(registration, token=issued.text))


def _answer(request: HttpRequest, registration: Registration, page: object) -> HttpResponse:
    response = render(request, "influx/start.html", {"page": page})
    if registration.target is not None:
        # The form's answer leads there, and browsers hold a form's redirects to the policy of its page.
        response[HEADER] = content_security_policy(request, form_targets=[registration.target.source])
    return response
