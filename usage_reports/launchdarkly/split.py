"""How an answer is split: from the values that events hold to the groups that reports show.

Projects and environments show as their ids; what an event does not have shows as "Unknown".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from accounts.models import Organization
from accounts.queries import environment_ids, project_ids
from metering.queries.reading import Filters
from usage_reports.launchdarkly.endpoints import ENVIRONMENT, PROJECT, UNKNOWN, Group

# The values of the dimensions that were read, None where events have none.
Raw = tuple[str | None, ...]
# The values of the groups.
Shown = tuple[str, ...]


class Key(NamedTuple):
    """What a line is about: its group, and the values of the dimensions that are read apart and joined later."""

    shown: Shown
    apart: Raw

    def without(self, places: frozenset[int]) -> Key:
        return Key(tuple(value for place, value in enumerate(self.shown) if place not in places), self.apart)


@dataclass(frozen=True, slots=True)
class Split:
    """One way to split an answer. `dimensions` are what has to be read, `apart` the last of them."""

    groups: tuple[Group, ...]
    apart: tuple[str, ...]
    dimensions: tuple[str, ...]
    # One per group: how it shows the values that were read.
    elements: tuple[Callable[[Mapping[str, str | None]], str], ...]

    @classmethod
    def of(cls, organization: Organization, groups: Sequence[Group], apart: Sequence[str]) -> Split:
        """One query each if a project or an environment is among the groups."""
        return cls._of(groups, apart, tuple(_element(organization, group) for group in groups))

    @classmethod
    def _of(
        cls,
        groups: Sequence[Group],
        apart: Sequence[str],
        elements: tuple[Callable[[Mapping[str, str | None]], str], ...],
    ) -> Split:
        names = [name for group in groups for name in group.dimensions]
        return cls(tuple(groups), tuple(apart), tuple(dict.fromkeys([*names, *apart])), elements)

    def show(self, raw: Raw) -> Key:
        values = dict(zip(self.dimensions, raw, strict=True))
        return Key(tuple(element(values) for element in self.elements), tuple(values[name] for name in self.apart))

    def list_unknown(self, key: Key) -> frozenset[int]:
        """Return the places of the groups that are unknown."""
        return frozenset(place for place, value in enumerate(key.shown) if value == UNKNOWN)

    def without(self, places: frozenset[int]) -> Split:
        kept = [place for place in range(len(self.groups)) if place not in places]
        return self._of(
            [self.groups[place] for place in kept], self.apart, tuple(self.elements[place] for place in kept)
        )

    def narrow(self, filters: Filters, places: frozenset[int]) -> dict[str, Sequence[str | None]]:
        """Return the filters, and with them only events whose groups at these places are unknown.

        Of filters that let any unknown through: those let all of them.
        """
        narrowed = dict(filters)
        for group in (self.groups[place] for place in places):
            # An id stands for every key, also for the word itself.
            narrowed[group.dimensions[-1]] = [None] if group.dimensions in {PROJECT, ENVIRONMENT} else [None, UNKNOWN]
        return narrowed


def show_value(value: str | None) -> str:
    return UNKNOWN if value is None else value


def _element(organization: Organization, group: Group) -> Callable[[Mapping[str, str | None]], str]:
    if group.dimensions == PROJECT:
        projects = project_ids(organization)
        return lambda values: UNKNOWN if (key := values["projectKey"]) is None else projects[key]
    if group.dimensions == ENVIRONMENT:
        environments = environment_ids(organization)
        return lambda values: (
            UNKNOWN
            if (key := values["environmentKey"]) is None
            else environments[show_value(values["projectKey"]), key]
        )
    [dimension] = group.dimensions
    return lambda values: show_value(values[dimension])
