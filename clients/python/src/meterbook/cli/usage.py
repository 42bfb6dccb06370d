"""`meterbook usage`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from meterbook.cli.options import chosen_period, grouped, pair, time
from meterbook.cli.output import format_options, print_rows
from meterbook.cli.settings import open_client
from meterbook.client import Client
from meterbook.usage import Usage


@click.command()
@click.argument("metric")
@click.option("--customer", "-c", help="One customer; by default all of them.")
@click.option("--realtime", is_flag=True, help="Running totals in the current period.")
@click.option("--period", "-p", help="current (default), last, or a month like 2026-11.")
@click.option("--from", "start", type=time, help="Start of the range, which belongs to it.")
@click.option("--to", "end", type=time, help="End of the range, which does not.")
@click.option("--filter", "-f", "filters", type=pair, multiple=True, help="dimension=value; all must match.")
@click.option("--by", "group_by", multiple=True, help="Split by a dimension, or by customer; repeatable.")
@click.option(
    "--series", "granularity", type=click.Choice(["minute", "hour", "day", "week", "month"]), help="Over time."
)
@click.option("--tz", help="Zone of the series' buckets.")
@click.option("--mode", type=click.Choice(["incremental", "month_to_date", "rolling_30d"]), help="Of a series.")
@click.option("--as-of", type=time, help="What was known at that time.")
@format_options
def usage(
    metric: str,
    customer: str | None,
    realtime: bool,
    period: str | None,
    start: datetime | None,
    end: datetime | None,
    filters: tuple[tuple[str, str], ...],
    group_by: tuple[str, ...],
    granularity: str | None,
    tz: str | None,
    mode: str | None,
    as_of: datetime | None,
    style: str | None,
) -> None:
    """Show the usage of METRIC: one number, split by dimensions, or over time."""
    if (tz or mode) and granularity is None:
        raise click.UsageError("--tz and --mode belong to --series.")
    selection: dict[str, Any] = {
        "metric": metric,
        "customer": customer,
        "period": chosen_period(period, start, end),
        "filters": grouped(filters),
        "as_of": as_of,
    }
    with open_client() as client:
        if realtime:
            _print_usage(client.query_realtime(customer, metric), style)
        elif granularity is not None:
            _print_series(client, {**selection, "granularity": granularity, "tz": tz, "mode": mode}, group_by, style)
        elif group_by:
            rows = client.breakdown(**selection, group_by=group_by)
            flat = [{**row.group, "value": row.value, "count": row.count} for row in rows]
            print_rows(flat, [*group_by, "value", "count"], style)
        else:
            _print_usage(client.query(**selection), style)


def _print_usage(answer: Usage, style: str | None) -> None:
    facts = asdict(answer) | {"start": answer.period.start, "end": answer.period.end}
    columns = ["metric", "customer", "start", "end", "value", "count", "sum", "min", "max", "unique", "last_value"]
    if style is not None:
        print_rows([facts], [*columns, "last_event_at"], style)
        return
    present = [{"": column, "value": facts[column]} for column in columns if facts[column] is not None]
    print_rows(present, ["", "value"], style)


def _print_series(client: Client, selection: dict[str, Any], group_by: tuple[str, ...], style: str | None) -> None:
    answer = client.series(**selection, group_by=group_by)
    rows = [
        {"start": point.start, **series.group, "value": point.value}
        for series in answer.series
        for point in series.points
    ]
    print_rows(rows, ["start", *group_by, "value"], style)
