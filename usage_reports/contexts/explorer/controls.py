"""What can be chosen in the explorer, and why not where something cannot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from accounts.models import Organization
from metering.contexts.address import CUSTOM_RANGE, GRANULARITY_DAYS
from metering.contexts.filters import (
    DimensionFilter,
    HiddenField,
    Option,
    get_dimension_filter,
    list_customer_options,
)
from metering.contexts.words import metric_name
from metering.models import Metric
from metering.queries import list_active_metrics
from metering.sql.usage import CUSTOMER
from usage_reports.contexts.explorer.address import (
    EXPLORER_RANGES,
    MAX_GROUPINGS,
    MODE_LABELS,
    ExplorerAddress,
    why_not_granularity,
    why_not_mode,
)
from usage_reports.contexts.explorer.view import ExplorerView

# More than anybody defines; a list must end somewhere.
MAX_LISTED_METRICS = 1000
# Of each dimension, and a metric may have many: the others are typed, and suggested while typing.
MAX_LISTED_VALUES = 100
GROUPING_LABELS = ("Group by", "then by", "and by")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several links. Without `url` it cannot be chosen, and `reason` says why."""

    label: str
    url: str
    is_current: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """Choices side by side; `name` is unique on the page."""

    name: str
    label: str
    choices: list[Choice]

    @property
    def reasons(self) -> list[str]:
        return list(dict.fromkeys(choice.reason for choice in self.choices if choice.reason))


@dataclass(frozen=True, slots=True)
class GroupingField:
    id: str
    label: str
    options: list[Option]


@dataclass(frozen=True, slots=True)
class ExplorerControls:
    metrics: list[Option]
    ranges: ChoiceRow
    is_custom_range: bool
    first_day: date
    last_day: date
    today: date
    modes: ChoiceRow
    granularities: ChoiceRow
    # None: too many to list, the id is typed.
    customers: list[Option] | None
    customer: str
    dimensions: list[DimensionFilter]
    groupings: list[GroupingField]
    # What each of the two forms must carry along of the other's.
    choice_fields: list[HiddenField]
    date_fields: list[HiddenField]
    clear_url: str


def list_metric_options(organization: Organization, chosen: Metric | None) -> list[Option]:
    """Return the active metrics, and the chosen one even when it is archived. One query."""
    metrics = list(list_active_metrics(organization=organization)[:MAX_LISTED_METRICS])
    if chosen is not None and chosen not in metrics:
        metrics.insert(0, chosen)
    return [Option(metric.code, _metric_label(metric), metric == chosen) for metric in metrics]


def get_controls(view: ExplorerView, metrics: list[Option], today: date) -> ExplorerControls:
    address = view.address
    choices = [
        *address.range_parameters(),
        ("mode", address.mode.value),
        ("granularity", address.chosen_granularity),
    ]
    beside_dates = [(name, value) for name, value in address.parameters() if name not in {"range", "first", "last"}]
    return ExplorerControls(
        metrics=metrics,
        ranges=_range_choices(address, today),
        is_custom_range=address.range_name == CUSTOM_RANGE,
        first_day=address.first_day,
        last_day=address.last_day,
        today=today,
        modes=_mode_choices(address),
        granularities=_granularity_choices(address),
        customers=list_customer_options(view.organization, address.customer),
        customer=address.customer,
        dimensions=[
            get_dimension_filter(view, address.filters, key, limit=MAX_LISTED_VALUES)
            for key in _dimension_keys(view.metric)
        ],
        groupings=_grouping_fields(view),
        choice_fields=[HiddenField(name, value) for name, value in choices if value],
        date_fields=[HiddenField(name, value) for name, value in beside_dates],
        clear_url=address.url(customer="", filters={}, group_by=()) if address.is_narrowed or address.group_by else "",
    )


def _metric_label(metric: Metric) -> str:
    name = metric_name(metric)
    label = name if name == metric.code else f"{name} · {metric.code}"
    return f"{label} (archived)" if metric.archived_at else label


def _dimension_keys(metric: Metric) -> list[str]:
    return [dimension["key"] for dimension in metric.dimensions]


def _range_choices(address: ExplorerAddress, today: date) -> ChoiceRow:
    choices = []
    for named in EXPLORER_RANGES:
        first_day, last_day = named.days(today)
        url = address.url(range_name=named.name, first_day=first_day, last_day=last_day)
        choices.append(Choice(named.label, url, named.name == address.range_name))
    return ChoiceRow("range", "Range", choices)


def _mode_choices(address: ExplorerAddress) -> ChoiceRow:
    choices = []
    for mode, label in MODE_LABELS.items():
        reason = why_not_mode(mode, address.day_count)
        choices.append(Choice(label, "" if reason else address.url(mode=mode), mode == address.mode, reason))
    return ChoiceRow("mode", "Aggregation", choices)


def _granularity_choices(address: ExplorerAddress) -> ChoiceRow:
    choices = []
    for width in GRANULARITY_DAYS:
        reason = why_not_granularity(width, address.mode, address.day_count)
        url = "" if reason else address.url(chosen_granularity=width.value)
        choices.append(Choice(width.capitalize(), url, width == address.granularity, reason))
    return ChoiceRow("granularity", "Granularity", choices)


def _grouping_fields(view: ExplorerView) -> list[GroupingField]:
    """Return a field per grouping and, while more are possible, one to add the next."""
    keys = _dimension_keys(view.metric)
    offered = keys if view.customer else [CUSTOMER, *keys]
    chosen = view.address.group_by
    fields = []
    for place in range(min(len(chosen) + 1, MAX_GROUPINGS, len(offered))):
        current = chosen[place] if place < len(chosen) else ""
        options = [Option("", "Not grouped" if place == 0 else "\u2013", not current)]
        options += [Option(key, key, key == current) for key in offered if key == current or key not in chosen]
        fields.append(GroupingField(f"group-by-{place + 1}", GROUPING_LABELS[place], options))
    return fields
