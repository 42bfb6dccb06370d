"""What one metric makes of an event row, as SQL: its quantity, its member, its dimensions, and whether it is fed.

The only translation of a metric's definition into SQL; rollups, recounts and raw reads all use it, so that they
cannot disagree. The event's table alias is `event`. Admission guarantees that the casts succeed.
"""

from collections.abc import Sequence

from psycopg.abc import AdaptContext
from psycopg.sql import SQL, Composable, Composed, Literal

from metering.models import Aggregation, Metric

OTHER = "(other)"


class Constant(Literal):
    """A literal in a statement that also takes parameters, where a bare percent sign would begin a placeholder."""

    def as_bytes(self, context: AdaptContext | None = None) -> bytes:
        return super().as_bytes(context).replace(b"%", b"%%")


NULL = SQL("NULL")
NUMERIC_NULL = SQL("NULL::numeric")


def quantity(metric: Metric) -> Composable:
    """Return the number that the metric aggregates, or SQL NULL where it counts members."""
    if metric.aggregation == Aggregation.COUNT_UNIQUE:
        return NUMERIC_NULL
    if metric.aggregation == Aggregation.COUNT:
        return SQL("1::numeric") if metric.value_property else SQL("COALESCE(event.value, 1)")
    if metric.value_property:
        return SQL("(event.properties ->> {})::numeric").format(Constant(metric.value_property))
    return SQL("event.value")


def member(metric: Metric) -> Composable:
    if metric.aggregation != Aggregation.COUNT_UNIQUE:
        return SQL("NULL::text")
    if metric.value_property:
        return SQL("(event.properties ->> {})").format(Constant(metric.value_property))
    return SQL("event.member")


def is_fed(metric: Metric) -> Composable:
    """Return the condition under which an event of one of the metric's feeds counts in it."""
    if metric.aggregation == Aggregation.COUNT_UNIQUE:
        return SQL("{} IS NOT NULL").format(member(metric))
    if metric.value_property:
        return SQL("jsonb_exists(event.properties, {})").format(Constant(metric.value_property))
    if metric.aggregation == Aggregation.COUNT:
        return SQL("TRUE")
    return SQL("event.value IS NOT NULL")


def dimension(metric: Metric, key: str) -> Composable:
    """Return the text under which the event groups in one dimension: null when absent, `(other)` when not listed."""
    values = next(entry.get("values") for entry in metric.dimensions if entry["key"] == key)
    text = SQL("(event.properties ->> {})").format(Constant(key))
    if not values:
        return text
    return SQL("CASE WHEN {text} IS NULL OR {text} = ANY({values}) THEN {text} ELSE {other} END").format(
        text=text, values=Constant(list(values)), other=Constant(OTHER)
    )


def dimensions(metric: Metric) -> Composable:
    """Return the values of all dimensions in the metric's order, as an array; NULL for a metric without any."""
    if not metric.dimensions:
        return SQL("NULL::text[]")
    parts = [dimension(metric, entry["key"]) for entry in metric.dimensions]
    return SQL("ARRAY[{}]::text[]").format(SQL(", ").join(parts))


def dimension_position(metric: Metric, key: str) -> int:
    """Return the one-based place of a dimension in a series' array. Raises `StopIteration` if it is not declared."""
    return next(place for place, entry in enumerate(metric.dimensions, start=1) if entry["key"] == key)


def is_one_of(text: Composable, values: Sequence[str | None]) -> Composable:
    """Return the condition that a text is among the values, where None stands for NULL."""
    named = [value for value in values if value is not None]
    is_named = SQL("{} = ANY({}::text[])").format(text, Constant(named))
    return is_named if len(named) == len(values) else SQL("({} OR {} IS NULL)").format(is_named, text)


def conjunction(conditions: Sequence[Composable]) -> Composed:
    return SQL(" AND ").join(conditions) if conditions else Composed([SQL("TRUE")])
