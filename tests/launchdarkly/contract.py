"""The vendor's contract, one row per endpoint, read from `contract.json`: what the tests make their calls from.

Condensed from what the two versions of the client declare. Shares nothing with the application's own table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_CONTRACT = json.loads(Path(__file__).with_name("contract.json").read_text())

ERROR_CODES: dict[str, str] = _CONTRACT["error_codes"]


@dataclass(frozen=True)
class Endpoint:
    """One method of the client. Names are those of the wire; the client's own names are the values of `parameters`."""

    method: str
    path: str
    path_parameters: dict[str, str]
    parameters: dict[str, str]
    repeatable: list[str]
    allowed: dict[str, list[str]]
    group_by: str | None
    groups: list[str]
    # The granularities of every aggregation.
    aggregations: dict[str, list[str]]
    default_aggregation: str | None
    # "month": from the start of the current one; else so long before now ("30d", "24h"); None: not stated.
    default_range: str | None
    longest_days: int | None
    # "integer", "number" or "list" (of names).
    values: str
    # The client's model of every documented status.
    models: dict[str, str]
    # What the newer of the two versions adds.
    new_in_25: dict[str, Any]

    @property
    def id(self) -> str:
        return self.method.removeprefix("get_").removesuffix("_usage")

    @property
    def all_groups(self) -> list[str]:
        return self.groups + self.new_in_25.get("groups", [])

    @property
    def choices(self) -> dict[str, list[str]]:
        """The parameters that take these values only, of both versions."""
        added: dict[str, list[str]] = self.new_in_25.get("allowed", {})
        return self.allowed | added

    @property
    def filters(self) -> list[str]:
        """Every parameter that narrows what is counted, of both versions."""
        others = {"from", "to", "tz", "granularity", "aggregationType", self.group_by}
        return [name for name in [*self.parameters, *self.new_in_25.get("parameters", {})] if name not in others]

    @property
    def combinations(self) -> list[tuple[str, str]]:
        """Every valid aggregation with every granularity that it has, of both versions."""
        added: dict[str, list[str]] = self.new_in_25.get("aggregations", {})
        both = [*self.aggregations.items(), *added.items()]
        return list(dict.fromkeys((name, granularity) for name, them in both for granularity in them))

    def parameters_of(self, version: str) -> dict[str, str]:
        return self.parameters | (self.new_in_25.get("parameters", {}) if version == "25" else {})

    def models_of(self, version: str) -> dict[str, str]:
        return self.models | (self.new_in_25.get("models", {}) if version == "25" else {})

    def has(self, status: int) -> bool:
        """Tell whether the client has a model for the status."""
        return str(status) in self.models


@cache
def _read_endpoints() -> tuple[Endpoint, ...]:
    return tuple(Endpoint(**{"new_in_25": {}, **row}) for row in _CONTRACT["endpoints"])


ENDPOINTS = _read_endpoints()


def get_endpoint(id: str) -> Endpoint:
    return next(endpoint for endpoint in ENDPOINTS if endpoint.id == id)
