"""The same numbers by the API: a command for curl, and lines of Python for our client."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from django.http import HttpRequest

from common.moments import rfc3339
from metering.contexts.address import filter_parameters
from metering.contexts.api_call import series_command, shell_quoted
from metering.domain import Mode
from metering.queries.exports import MAX_ROWS
from metering.queries.usage import MAX_POINTS
from usage_reports.contexts.explorer.view import ExplorerView

FILE_NAME = "usage.csv"


@dataclass(frozen=True, slots=True)
class ApiCalls:
    curl: str
    python: str
    # Why it is not the plain call, or why there is none.
    note: str = ""


def get_api_calls(request: HttpRequest, view: ExplorerView, *, point_count: int) -> ApiCalls:
    """Return calls that work as they stand, but for the key. What is too long for one answer comes as a file."""
    if point_count > MAX_ROWS:
        return ApiCalls("", "", f"{point_count:,} points are more than one call or file gives. Narrow the range first.")
    url = request.build_absolute_uri("/").rstrip("/")
    if point_count > MAX_POINTS:
        note = f"{point_count:,} points are more than one answer gives ({MAX_POINTS:,}), so this writes a file."
        return ApiCalls(_export_command(request, view), _export_code(url, view), note)
    return ApiCalls(series_command(request, _parameters(view)), _series_code(url, view))


def _parameters(view: ExplorerView) -> list[tuple[str, str]]:
    address = view.address
    groupings = [("group_by", key) for key in address.group_by]
    return [*_single_parameters(view), *filter_parameters(address.filters), *groupings]


def _single_parameters(view: ExplorerView) -> list[tuple[str, str]]:
    address = view.address
    return [
        *([("customer", view.customer.external_id)] if view.customer else []),
        ("metric", view.metric.code),
        ("from", rfc3339(view.span.start)),
        ("to", rfc3339(view.span.end)),
        ("granularity", address.granularity.value),
        ("tz", str(view.zone)),
        ("mode", address.mode.value),
    ]


def _export_command(request: HttpRequest, view: ExplorerView) -> str:
    filters = {key: list(values) for key, values in view.address.filters.items()}
    body = {**dict(_single_parameters(view)), "filter": filters, "group_by": view.address.group_by, "format": "csv"}
    lines = [
        f"curl {request.build_absolute_uri('/v1/usage/export')} -o {FILE_NAME}",
        '-H "Authorization: Bearer $METERBOOK_API_KEY"',
        '-H "Content-Type: application/json"',
        f"-d {shell_quoted(json.dumps(body, ensure_ascii=False))}",
    ]
    return " \\\n  ".join(lines)


def _series_code(url: str, view: ExplorerView) -> str:
    lines = [
        *_opening(url, view),
        "    usage = client.series(",
        *_arguments(view),
        "    )",
        "for line in usage.series:",
        "    for point in line.points:",
        "        print(point.start.isoformat(), *line.group.values(), point.value)",
    ]
    return "\n".join(lines)


def _export_code(url: str, view: ExplorerView) -> str:
    lines = [
        *_opening(url, view),
        f'    with open("{FILE_NAME}", "wb") as file:',
        "        for piece in client.export(",
        *(f"        {line}" for line in _arguments(view, indent="    ")),
        "        ):",
        "            file.write(piece)",
    ]
    return "\n".join(lines)


def _opening(url: str, view: ExplorerView) -> Sequence[str]:
    moments = [f'    datetime.fromisoformat("{moment.isoformat()}"),' for moment in view.span]
    return [
        "import os",
        "from datetime import datetime",
        "",
        "from meterbook import Client, Period",
        "",
        "period = Period(",
        *moments,
        ")",
        f'with Client("{url}", os.environ["METERBOOK_API_KEY"]) as client:',
    ]


def _arguments(view: ExplorerView, *, indent: str = " " * 8) -> list[str]:
    address = view.address
    arguments = [("metric", view.metric.code), ("customer", view.customer and view.customer.external_id)]
    lines = [f"{name}={_literal(value)}," for name, value in arguments if value]
    lines += ["period=period,", f'granularity="{address.granularity}",', f'tz="{view.zone}",']
    if address.mode != Mode.INCREMENTAL:
        lines.append(f'mode="{address.mode}",')
    if address.group_by:
        lines.append(f"group_by={_literal(list(address.group_by))},")
    if address.filters:
        lines.append(f"filters={_literal({key: list(values) for key, values in address.filters.items()})},")
    return [indent + line for line in lines]


def _literal(value: object) -> str:
    """Return Python source for text, and lists and dicts of text: JSON is that too, whatever the text holds."""
    return json.dumps(value, ensure_ascii=False)
