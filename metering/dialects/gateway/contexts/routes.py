"""Routes: their list, the form of one, and what the expression that is being typed comes to."""

from __future__ import annotations

from dataclasses import dataclass

from django.forms import BoundField
from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode

from accounts.access import Caller
from accounts.pages import text_parameter
from common.errors import InvalidInput
from common.numbers import exact_text
from metering.dialects.gateway.domain import ANY_METHOD
from metering.dialects.gateway.expressions import MeteringError, Record, compile_expression
from metering.dialects.gateway.forms import CheckForm, RouteForm, SampleForm
from metering.dialects.gateway.models import ErrorPolicy, MeteringMode, Route
from metering.dialects.gateway.queries.routes import list_routes
from metering.dialects.gateway.services.routes import EVALUATING_MODES, check_expression

PAGE_SIZE = 50
MODE_LABELS: dict[str, str] = {
    MeteringMode.REQUEST: "one per request",
    MeteringMode.BYTES: "kilobytes",
    MeteringMode.RESPONSE_FIELD: "field of the response",
    MeteringMode.CUSTOM: "expression",
}
POLICY_LABELS: dict[str, str] = {
    ErrorPolicy.REJECT: "else refused",
    ErrorPolicy.ZERO: "else none",
    ErrorPolicy.ONE: "else one",
}
SAMPLE_STATUS, SAMPLE_LATENCY_MS = 200, 100


@dataclass(frozen=True, slots=True)
class RouteRow:
    code: str
    name: str
    method: str
    path_pattern: str
    mode_label: str
    # Empty for the modes that evaluate nothing, and so is the policy.
    expression: str
    policy_label: str
    metric: str
    metric_url: str
    edit_url: str


@dataclass(frozen=True, slots=True)
class RouteListPage:
    rows: list[RouteRow]
    next_url: str
    first_url: str


def get_route_list(request: HttpRequest, caller: Caller) -> RouteListPage:
    """A page of routes by id; `after` is the id of the page before's last row. One query."""
    after = text_parameter(request, "after")
    address = reverse("gateway:route_list", args=[caller.organization.pk])
    found = list(list_routes(organization=caller.organization).filter(code__gt=after).order_by("code")[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    return RouteListPage(
        rows=[_row(caller, route) for route in shown],
        next_url=f"{address}?{urlencode({'after': shown[-1].code})}" if len(found) > PAGE_SIZE else "",
        first_url=address if after else "",
    )


def _row(caller: Caller, route: Route) -> RouteRow:
    arguments = [caller.organization.pk]
    return RouteRow(
        code=route.code,
        name=route.name,
        method="any method" if route.method == ANY_METHOD else route.method,
        path_pattern=route.path_pattern,
        mode_label=MODE_LABELS[route.metering_mode],
        expression=route.metering_expr,
        policy_label=POLICY_LABELS[route.on_metering_error] if route.metering_expr else "",
        metric=route.metric.code if route.metric else "",
        metric_url=reverse("metering:metric", args=[*arguments, route.metric.code]) if route.metric else "",
        edit_url=reverse("gateway:edit_route", args=[*arguments, route.code]),
    )


@dataclass(frozen=True, slots=True)
class FieldGroup:
    title: str
    fields: list[BoundField]


@dataclass(frozen=True, slots=True)
class RouteFormPage:
    title: str
    submit_label: str
    cancel_url: str
    check_url: str
    form: RouteForm
    groups: list[FieldGroup]
    sample: SampleForm
    check: ExpressionCheck
    route: Route | None = None


def get_route_form_page(caller: Caller, form: RouteForm, route: Route | None = None) -> RouteFormPage:
    arguments = [caller.organization.pk]
    groups = [
        FieldGroup(title, [form[name] for name in names if name in form.fields]) for title, names in RouteForm.GROUPS
    ]
    return RouteFormPage(
        title=f"Edit {route.name}" if route else "New route",
        submit_label="Save" if route else "Create route",
        cancel_url=reverse("gateway:route_list", args=arguments),
        check_url=reverse("gateway:check_expression", args=arguments),
        form=form,
        groups=groups,
        sample=SampleForm(form.data if form.is_bound else None),
        check=check_typed(CheckForm(_typed(form))),
        route=route,
    )


def _typed(form: RouteForm) -> dict[str, str]:
    """Return what the form shows of the expression: what was sent, or else what is saved."""
    names = ("metering_mode", "metering_expr", "sample_request", "sample_response")
    shown = form.data if form.is_bound else form.initial
    return {name: str(shown.get(name, "")) for name in names}


@dataclass(frozen=True, slots=True)
class ExpressionCheck:
    """What is typed so far comes to: a sentence, and how to show it. Empty: there is nothing to say."""

    message: str = ""
    css_class: str = ""


def check_typed(form: CheckForm) -> ExpressionCheck:
    """Check the expression, and try it with the sample where there is one. Reads nothing and stores nothing."""
    if not form.is_valid() or form.cleaned_data["metering_mode"] not in EVALUATING_MODES:
        return ExpressionCheck()
    mode, text = form.cleaned_data["metering_mode"], form.cleaned_data["metering_expr"]
    if not text.strip():
        return ExpressionCheck()
    try:
        check_expression(mode=mode, text=text)
    except InvalidInput as error:
        return ExpressionCheck(f"Column {error.extra['column']}: {error.errors[0].message}", "is-error")
    request, response = form.cleaned_data["sample_request"].encode(), form.cleaned_data["sample_response"].encode()
    if not request and not response:
        return ExpressionCheck("The expression can be saved. Paste a body below to try it.", "is-info")
    sample = Record(
        status=SAMPLE_STATUS,
        latency_ms=SAMPLE_LATENCY_MS,
        request_bytes=len(request),
        response_bytes=len(response),
        request_body=request,
        response_body=response,
    )
    try:
        units = compile_expression(text).evaluate(sample)
    except MeteringError as error:
        return ExpressionCheck(f"No number with this sample ({error.code}): {error.message}", "is-warning")
    return ExpressionCheck(f"With this sample: {exact_text(units)}", "is-success")
