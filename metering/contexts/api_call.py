"""The API call that answers with the numbers of a chart."""

from collections.abc import Sequence

from django.http import HttpRequest

from common.moments import rfc3339
from metering.contexts.address import filter_parameters
from metering.contexts.view import MetricView


def usage_call(request: HttpRequest, view: MetricView) -> str:
    """Return a curl command; only the key is left to fill in."""
    address = view.address
    parameters = [
        ("metric", view.metric.code),
        ("from", rfc3339(view.span.start)),
        ("to", rfc3339(view.span.end)),
        ("granularity", address.granularity.value),
        ("tz", str(view.zone)),
    ]
    if view.customer:
        parameters.insert(0, ("customer", view.customer.external_id))
    parameters += filter_parameters(address.filters)
    if address.group_by:
        parameters.append(("group_by", address.group_by))
    return series_command(request, parameters)


def series_command(request: HttpRequest, parameters: Sequence[tuple[str, str]]) -> str:
    """Return a curl command that asks for a series with these parameters."""
    lines = [
        f"curl -G {request.build_absolute_uri('/v1/usage/series')}",
        '-H "Authorization: Bearer $METERBOOK_API_KEY"',
        *(f"--data-urlencode {shell_quoted(f'{name}={value}')}" for name, value in parameters),
    ]
    return " \\\n  ".join(lines)


def shell_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
