"""The bodies of the usage-client, read into reports. Refuses with the words that its server always used.

Owns the format of `docs/influx.md`; stores nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from common.bodies import decode_json
from common.errors import FieldError, InvalidInput
from metering.dialects.influx.domain import (
    IDENTITY_FIELDS,
    MAX_NAME_CHARACTERS,
    MAX_PRODUCT_CHARACTERS,
    MAX_SERIES_CHARACTERS,
    SERVER_TAGS,
    USAGE_SERIES,
    Report,
    ReportedValue,
    ReportKind,
    ServerIdentity,
    as_fact,
    as_quantity,
    name_series,
)

# Of all entries together: several times what a large server's statistics are.
MAX_VALUES = 20_000
# Usage speaks of one server; nobody sends for more than a few at once.
MAX_SERVERS = 100
MAX_ERRORS = 20

# The names of fields as the messages call them.
LABELS = {
    "cluster_id": "ClusterID",
    "server_id": "ServerID",
    "host": "Host",
    "product": "Product",
    "version": "Version",
}
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


class _Problems:
    """What is wrong with one body, field by field."""

    def __init__(self) -> None:
        self._errors: list[FieldError] = []

    def add(self, field: str, message: str, code: str = "invalid") -> None:
        self._errors.append(FieldError(field, code, message))

    def raise_if_any(self) -> None:
        if self._errors:
            told = self._errors[:MAX_ERRORS]
            message = " ".join(error.message for error in told)
            raise InvalidInput(message, code=told[0].code, errors=told)


def read_server(body: bytes) -> list[Report]:
    """Read `POST /servers`. Raises `InvalidInput` naming every field that is wrong, `BadRequest` for no JSON."""
    content = _read_object(body)
    problems = _Problems()
    text = {
        name: _read_name(content.get(name), name, label, problems, _longest(name)) for name, label in LABELS.items()
    }
    problems.raise_if_any()
    server = ServerIdentity(text["product"], text["cluster_id"], text["server_id"])
    return [Report(ReportKind.SERVER, server, host=text["host"], version=text["version"])]


def read_stats(body: bytes, *, product: str) -> list[Report]:
    """Read `POST /stats/{product}`: one server, any number of named series. Raises as `read_server`."""
    content = _read_object(body)
    problems = _Problems()
    server = ServerIdentity(
        _read_name(product, "product", LABELS["product"], problems, MAX_PRODUCT_CHARACTERS),
        _read_name(content.get("cluster_id"), "cluster_id", LABELS["cluster_id"], problems),
        _read_name(content.get("server_id"), "server_id", LABELS["server_id"], problems),
    )
    report = Report(ReportKind.STATS, server)
    for path, entry in _entries(content.get("stats"), "stats", problems):
        name = _read_name(entry.get("name"), f"{path}.name", "Name", problems)
        series = _series_of(name, _read_tags(entry, path, problems), path, problems)
        _take_values(report, entry, path, series, problems)
    _check_count([report], problems)
    problems.raise_if_any()
    return [report]


def read_usage(body: bytes, *, product: str) -> list[Report]:
    """Read `POST /usage/{product}`: entries without an envelope, which name server and cluster among their values.

    An entry that names none is of the server that another entry of the same body names. Returns a report for each
    server. Raises as `read_server`.
    """
    problems = _Problems()
    product = _read_name(product, "product", LABELS["product"], problems, MAX_PRODUCT_CHARACTERS)
    reports: dict[ServerIdentity, Report] = {}
    read = list(_read_usage_entries(decode_json(body), product, problems))
    named = next((server for server, _, _ in read if server.cluster_id or server.server_id), ServerIdentity(product))
    for server, path, entry in read:
        whose = server if server.cluster_id or server.server_id else named
        report = reports.setdefault(whose, Report(ReportKind.USAGE, whose))
        tags = _read_tags(entry, path, problems)
        report.facts |= {name: fact for name in SERVER_TAGS & tags.keys() if (fact := as_fact(tags[name])) is not None}
        own = {name: text for name, text in tags.items() if name not in SERVER_TAGS | IDENTITY_FIELDS}
        _take_values(report, entry, path, _series_of(USAGE_SERIES, own, path, problems), problems)
        report.version = report.facts.get("version") or report.version
    _check_count(list(reports.values()), problems)
    problems.raise_if_any()
    return list(reports.values())


def _read_usage_entries(
    content: Any, product: str, problems: _Problems
) -> Iterator[tuple[ServerIdentity, str, Mapping[str, Any]]]:
    for path, entry in _entries(content, "usage", problems):
        cluster_id, server_id = (_read_id(entry, name, path, problems) for name in ("cluster_id", "server_id"))
        yield ServerIdentity(product, cluster_id, server_id), path, entry


def _read_id(entry: Mapping[str, Any], name: str, path: str, problems: _Problems) -> str:
    """Return an id from the values or, where they have none, from the tags; a whole number is its digits."""
    for place in ("values", "tags"):
        members = entry.get(place)
        found = members.get(name) if isinstance(members, Mapping) else None
        if type(found) is int:
            found = str(found)
        if found is not None and found != "":
            return _read_name(found, f"{path}.{place}.{name}", LABELS[name], problems)
    return ""


def _read_object(body: bytes) -> Mapping[str, Any]:
    content = decode_json(body)
    if not isinstance(content, Mapping):
        raise InvalidInput.of("body", "The body must be an object.")
    return content


def _longest(name: str) -> int:
    return MAX_PRODUCT_CHARACTERS if name == "product" else MAX_NAME_CHARACTERS


def _read_name(value: Any, field: str, label: str, problems: _Problems, longest: int = MAX_NAME_CHARACTERS) -> str:
    """Return a text that names something; what is wrong with it is a problem, and then it is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        problems.add(field, f"{label} can not be blank.", "required")
    elif not isinstance(value, str):
        problems.add(field, f"{label} must be a string.")
    elif len(value) > longest:
        problems.add(field, f"{label} is longer than {longest} characters.", "max_length")
    elif _CONTROL_CHARACTERS.search(value):
        problems.add(field, f"{label} has a control character in it.")
    else:
        return value
    return ""


def _entries(content: Any, name: str, problems: _Problems) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each entry with the path under which its problems are told; null is no entries."""
    if content is None:
        return
    if not isinstance(content, list):
        problems.add(name, f"{name.capitalize()} must be an array.")
        return
    for place, entry in enumerate(content):
        if isinstance(entry, Mapping):
            yield f"{name}[{place}]", entry
        else:
            problems.add(f"{name}[{place}]", "An entry must be an object.")


def _read_tags(entry: Mapping[str, Any], path: str, problems: _Problems) -> dict[str, str]:
    tags = entry.get("tags")
    if tags is None:
        return {}
    if not isinstance(tags, Mapping) or not all(isinstance(text, str) for text in tags.values()):
        problems.add(f"{path}.tags", "Tags must be an object of strings.")
        return {}
    return dict(tags)


def _series_of(name: str, tags: Mapping[str, str], path: str, problems: _Problems) -> str:
    series = name_series(name, tags)
    if len(series) > MAX_SERIES_CHARACTERS or _CONTROL_CHARACTERS.search(series):
        message = f"Name and tags have at most {MAX_SERIES_CHARACTERS} characters, and no control characters."
        problems.add(f"{path}.tags", message)
    return series


def _take_values(report: Report, entry: Mapping[str, Any], path: str, series: str, problems: _Problems) -> None:
    """Add an entry's quantities and facts to the report. A fact of a statistic bears its series' name."""
    values = entry.get("values")
    if values is None:
        return
    if not isinstance(values, Mapping):
        problems.add(f"{path}.values", "Values must be an object.")
        return
    for name, value in values.items():
        if report.kind is ReportKind.USAGE and name in IDENTITY_FIELDS:
            continue
        if len(name) > MAX_NAME_CHARACTERS or _CONTROL_CHARACTERS.search(name):
            message = f"A field has at most {MAX_NAME_CHARACTERS} characters, and no control characters."
            problems.add(f"{path}.values", message)
        elif (quantity := as_quantity(value)) is not None:
            report.values.append(ReportedValue(series, name, quantity))
        elif (fact := as_fact(value)) is not None:
            report.facts[name if report.kind is ReportKind.USAGE else f"{series} {name}"] = fact


def _check_count(reports: list[Report], problems: _Problems) -> None:
    count = sum(len(report.values) for report in reports)
    if count > MAX_VALUES:
        problems.add("body", f"A report has at most {MAX_VALUES} values; this one has {count}.", "too_many_values")
    if len(reports) > MAX_SERVERS:
        problems.add("body", f"A report is about at most {MAX_SERVERS} servers.", "too_many_servers")
