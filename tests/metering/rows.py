"""Looking at tables and plans: exact rows of one organization, and the indexes that a statement uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.db import connection
from psycopg.sql import SQL, Composable, Identifier
from pyroaring import BitMap

from accounts.models import Organization
from metering.models import Customer, Member, Metric, Series


def table_rows(organization: Organization, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """Return these columns of all rows of the organization, sorted."""
    statement = SQL("SELECT {columns} FROM {table} WHERE organization_id = %s ORDER BY {columns}").format(
        columns=SQL(", ").join(map(Identifier, columns)), table=Identifier(table)
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [organization.pk])
        return cursor.fetchall()


def series_names(organization: Organization) -> dict[int, str]:
    """Name every series in words: `metric/customer` for a total, `metric/customer/values` for a combination."""
    metrics = dict(Metric.objects.for_organization(organization).values_list("pk", "code"))
    customers = dict(Customer.objects.for_organization(organization).values_list("pk", "external_id"))
    return {
        series.id: "/".join(
            [metrics[series.metric_id], customers[series.customer_id]]
            + ([] if series.dimensions is None else [",".join(str(value) for value in series.dimensions)])
        )
        for series in Series.objects.for_organization(organization)
    }


def rollup_rows(organization: Organization, width: str) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Return (count, sum, min, max, last value, time of last) by series in words and bucket `MM-DD hh:mm`."""
    names = series_names(organization)
    rows = table_rows(
        organization,
        f"metering_rollup_{width}",
        "series_id",
        "bucket_start",
        "event_count",
        "value_sum",
        "value_min",
        "value_max",
        "last_value",
        "last_at",
    )
    return {(names[row[0]], f"{row[1]:%m-%d %H:%M}"): (*row[2:7], f"{row[7]:%m-%d %H:%M:%S}") for row in rows}


def member_sets(organization: Organization) -> dict[tuple[str, str, str], tuple[set[str], set[str]]]:
    """Return (added, removed) in words by series, width and bucket `MM-DD hh`."""
    names = series_names(organization)
    members = {(row.metric_id, row.number): row.member for row in Member.objects.for_organization(organization)}
    metric_of = dict(Series.objects.for_organization(organization).values_list("id", "metric_id"))
    rows = table_rows(organization, "metering_member_set", "series_id", "width", "bucket_start", "added", "removed")

    def words(series_id: int, content: bytes | None) -> set[str]:
        numbers = BitMap() if content is None else BitMap.deserialize(bytes(content))
        return {members[metric_of[series_id], number] for number in numbers}

    return {
        (names[row[0]], row[1], f"{row[2]:%m-%d %H}"): (words(row[0], row[3]), words(row[0], row[4])) for row in rows
    }


def explain(read: Callable[[], object]) -> dict[str, set[str]]:
    """Return how the statements of a read reach each table: the indexes by table, `Seq Scan` for none."""
    statements: list[tuple[Any, Any]] = []

    def note(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        statements.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        read()
    reached: dict[str, set[str]] = {}
    for sql, params in statements:
        prefix: Any = SQL("EXPLAIN (FORMAT JSON) ") if isinstance(sql, Composable) else "EXPLAIN (FORMAT JSON) "
        with connection.cursor() as cursor:
            cursor.execute(prefix + sql, params)
            plan = cursor.fetchone()[0][0]["Plan"]
        for node in _nodes(plan):
            if "Relation Name" in node:
                way = node.get("Index Name") or _bitmap_index(node) or node["Node Type"]
                reached.setdefault(node["Relation Name"], set()).add(way)
    return reached


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _bitmap_index(node: dict[str, Any]) -> str | None:
    """Return the index of a bitmap heap scan, which its child names."""
    return next((child["Index Name"] for child in _nodes(node) if "Index Name" in child), None)
