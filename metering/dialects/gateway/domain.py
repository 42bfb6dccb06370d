"""Path patterns, and which route a request belongs to. Pure: no database, no clock.

A pattern is `/users/{id}/orders`: words, parameters of one segment each, and perhaps `*` at the end for all that
follows, one segment at least. `*` alone matches every path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Context, Decimal

from metering.dialects.gateway.expressions import Expression, MeteringError, Record

ANY_METHOD = "*"
REST = "*"
PARAMETER = "{}"
MAX_PATTERN_CHARACTERS = 512
MAX_SEGMENTS = 32

_PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]{0,63}\}\Z", re.ASCII)
# A quotient by 1024 has ten decimals more than the number of bytes has digits: always exact.
_EXACT = Context(prec=60)


def pattern_shape(pattern: str) -> str:
    """Return the pattern without the names of its parameters. Raises `ValueError` with a sentence."""
    if pattern == REST:
        return pattern
    if not pattern.startswith("/"):
        raise ValueError("A pattern begins with /, like /users/{id}; * alone matches every path.")
    segments = split_path(pattern)
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(f"A pattern has at most {MAX_SEGMENTS} segments.")
    for place, segment in enumerate(segments, start=1):
        if segment == REST and place < len(segments):
            raise ValueError("* stands at the end only; {name} is one segment.")
    return "/" + "/".join(_shape_of(segment) for segment in segments)


def _shape_of(segment: str) -> str:
    if _PARAMETER.match(segment):
        return PARAMETER
    if any(sign in segment for sign in "{}?#") or (REST in segment and segment != REST):
        raise ValueError(f"{segment[:40]!r} is neither a word nor {{name}} nor * at the end.")
    if not segment.isprintable() or " " in segment:
        raise ValueError("A path has no spaces or control characters.")
    return segment


def split_path(path: str) -> list[str]:
    return path.removeprefix("/").split("/")


@dataclass(frozen=True, slots=True)
class Metering:
    """How the requests of one route are metered; `expression` is None where the mode needs none."""

    route_id: str
    mode: str
    policy: str
    expression: Expression | None = None
    # Where the units go besides `metered_units`; empty: nowhere.
    unit_property: str = ""

    def count_units(self, record: Record) -> Decimal:
        """Return the units of a request, exactly. Raises `MeteringError`."""
        if self.mode == "request":
            return Decimal(1)
        if self.mode == "bytes":
            return _EXACT.divide(Decimal(record.request_bytes + record.response_bytes), Decimal(1024))
        if self.expression is None:
            raise MeteringError("invalid_expression", "The route's expression can no longer be read; save it again.")
        return self.expression.evaluate(record)


@dataclass(slots=True)
class _Node:
    """One place in the tree of patterns: what may follow, and whose pattern ends here, by method."""

    words: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    rest: dict[str, Metering] = field(default_factory=dict)
    here: dict[str, Metering] = field(default_factory=dict)


class RouteTable:
    """The routes of one organization, ready to be found. Read by many threads, never changed."""

    def __init__(self, routes: Iterable[tuple[str, str, Metering]]) -> None:
        """Take (method, shape of the path or empty, metering) of each route."""
        self._by_id: dict[str, Metering] = {}
        self._root = _Node()
        for method, shape, metering in routes:
            self._by_id[metering.route_id] = metering
            if shape:
                self._add(method, shape, metering)

    def find_by_id(self, route_id: str) -> Metering | None:
        return self._by_id.get(route_id)

    def find_by_path(self, method: str, path: str) -> Metering | None:
        """Return the most specific route: at the first segment that differs a word, then a parameter, then `*`.

        Of two that differ in the method alone the one that names it. Visits each place of the tree once at most.
        """
        return _descend(self._root, split_path(path), 0, method)

    def _add(self, method: str, shape: str, metering: Metering) -> None:
        node = self._root
        segments = split_path(shape)
        for segment in segments[:-1] if segments[-1] == REST else segments:
            if segment == PARAMETER:
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.words.setdefault(segment, _Node())
        (node.rest if segments[-1] == REST else node.here)[method] = metering


def _descend(node: _Node, segments: list[str], place: int, method: str) -> Metering | None:
    if place == len(segments):
        return _of_method(node.here, method)
    found = None
    if segments[place] in node.words:
        found = _descend(node.words[segments[place]], segments, place + 1, method)
    if found is None and node.parameter is not None and segments[place]:
        found = _descend(node.parameter, segments, place + 1, method)
    return found or _of_method(node.rest, method)


def _of_method(routes: dict[str, Metering], method: str) -> Metering | None:
    return routes.get(method) or routes.get(ANY_METHOD)
