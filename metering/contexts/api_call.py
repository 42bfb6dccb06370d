"""The API call that answers with the numbers of a metric's chart."""

from datetime import datetime

from django.http import HttpRequest

from metering.contexts.view import MetricView


def usage_call(request: HttpRequest, view: MetricView) -> str:
    """Return a curl command; only the key is left to fill in."""
    address = view.address
    parameters = [
        ("metric", view.metric.code),
        ("from", _rfc3339(view.span.start)),
        ("to", _rfc3339(view.span.end)),
        ("granularity", address.granularity.value),
        ("tz", str(view.zone)),
    ]
    if view.customer:
        parameters.insert(0, ("customer", view.customer.external_id))
    parameters += [(f"filter[{key}]", value) for key, values in address.filters.items() for value in values]
    if address.group_by:
        parameters.append(("group_by", address.group_by))
    lines = [
        f"curl -G {request.build_absolute_uri('/v1/usage/series')}",
        '-H "Authorization: Bearer $METERBOOK_API_KEY"',
        *(f"--data-urlencode {_quoted(f'{name}={value}')}" for name, value in parameters),
    ]
    return " \\\n  ".join(lines)


def _rfc3339(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
