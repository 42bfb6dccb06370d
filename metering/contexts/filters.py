"""The controls above a chart, each with what can be chosen and what is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from accounts.models import Customer, Organization
from metering.contexts.address import CUSTOM_RANGE, RANGES, offered_granularities
from metering.contexts.breakdown import Link
from metering.contexts.lines import group_label
from metering.contexts.view import MetricView, UsageView
from metering.queries.dimensions import list_dimension_values
from metering.sql.usage import CUSTOMER

# A list of more is no help: beyond it the customer is typed.
MAX_LISTED_CUSTOMERS = 100
MAX_LISTED_VALUES = 300
SEARCHABLE_FROM = 12


@dataclass(frozen=True, slots=True)
class Option:
    value: str
    label: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class HiddenField:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class DimensionFilter:
    key: str
    options: list[Option]
    # What the closed control says: the one value, or how many.
    chosen_label: str
    # Whether the list is long but complete, so that searching it helps.
    is_searchable: bool
    # Whether there may be more values than are listed, to be typed.
    is_cut: bool


@dataclass(frozen=True, slots=True)
class MetricFilters:
    ranges: list[Link]
    is_custom_range: bool
    first_day: date
    last_day: date
    granularities: list[Link]
    # None: too many to list, the id is typed.
    customers: list[Option] | None
    customer: str
    dimensions: list[DimensionFilter]
    groupings: list[Option]
    # What each of the two forms must carry along of the other's.
    range_fields: list[HiddenField]
    other_fields: list[HiddenField]
    clear_url: str


def get_metric_filters(view: MetricView) -> MetricFilters:
    address = view.address
    kept = [("by", address.chosen_granularity), ("breakdown", address.breakdown_by)]
    return MetricFilters(
        ranges=[
            Link(
                named.label, address.url(range_name=named.name, chosen_granularity=""), named.name == address.range_name
            )
            for named in RANGES
        ],
        is_custom_range=address.range_name == CUSTOM_RANGE,
        first_day=address.first_day,
        last_day=address.last_day,
        granularities=[
            Link(width.value.capitalize(), address.url(chosen_granularity=width.value), width == address.granularity)
            for width in offered_granularities(address.day_count)
        ],
        customers=list_customer_options(view.organization, address.customer),
        customer=address.customer,
        dimensions=[
            get_dimension_filter(view, address.filters, dimension["key"]) for dimension in view.metric.dimensions
        ],
        groupings=_groupings(view),
        range_fields=[HiddenField(name, value) for name, value in [*address.range_parameters(), *kept] if value],
        other_fields=[HiddenField(name, value) for name, value in address.other_parameters() if name != "by"],
        clear_url=address.url(customer="", filters={}, group_by="") if _is_narrowed(view) else "",
    )


def list_customer_options(organization: Organization, chosen: str) -> list[Option] | None:
    """Return all customers to choose from, or None where a list of them would be no help. One query."""
    customers = Customer.objects.for_organization(organization).order_by("external_id")
    found = list(customers.values_list("external_id", "name")[: MAX_LISTED_CUSTOMERS + 1])
    if len(found) > MAX_LISTED_CUSTOMERS:
        return None
    return [
        Option(external_id, f"{external_id} · {name}" if name else external_id, external_id == chosen)
        for external_id, name in found
    ]


def get_dimension_filter(
    view: UsageView, filters: Mapping[str, Sequence[str]], key: str, *, limit: int = MAX_LISTED_VALUES
) -> DimensionFilter:
    """Return a dimension's values to choose from. One query."""
    chosen = filters.get(key, ())
    occurring = list_dimension_values(
        organization=view.organization,
        metric=view.metric,
        key=key,
        limit=limit,
        customer_id=view.customer_id,
    )
    # A chosen value stays in the list when nothing has it, so that it can be unchosen.
    values = list(dict.fromkeys([*chosen, *occurring]))
    is_cut = len(occurring) == limit
    return DimensionFilter(
        key=key,
        options=[Option(value, group_label(value), value in chosen) for value in values],
        chosen_label=chosen[0] if len(chosen) == 1 else f"{len(chosen)} values" if chosen else "",
        is_searchable=len(values) >= SEARCHABLE_FROM and not is_cut,
        is_cut=is_cut,
    )


def _groupings(view: MetricView) -> list[Option]:
    keys = [dimension["key"] for dimension in view.metric.dimensions]
    offered = keys if view.customer else [CUSTOMER, *keys]
    return [
        Option("", "Not grouped", not view.address.group_by),
        *(Option(key, f"By {key}", key == view.address.group_by) for key in offered),
    ]


def _is_narrowed(view: MetricView) -> bool:
    return bool(view.address.customer or view.address.filters or view.address.group_by)
