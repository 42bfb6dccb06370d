"""`meterbook metrics`."""

from __future__ import annotations

from dataclasses import asdict

import click

from meterbook.cli.options import pair
from meterbook.cli.output import format_options, print_json, print_rows
from meterbook.cli.settings import open_client
from meterbook.metrics import Aggregation, Dimension, Metric, MetricPeriod, Threshold


@click.group()
def metrics() -> None:
    """Define what is measured."""


@metrics.command("list")
@click.option("--archived", is_flag=True, help="Those that no longer count events.")
@format_options
def list_metrics(archived: bool, style: str | None) -> None:
    """List the metrics."""
    with open_client() as client:
        rows = [
            {**asdict(metric), "dimensions": ", ".join(dimension.key for dimension in metric.dimensions)}
            for metric in client.metrics.list(archived=archived)
        ]
    columns = ["code", "aggregation", "event_type", "value_property", "dimensions", "unit", "name"]
    print_rows(rows, columns, style)


@metrics.command()
@click.argument("code")
@click.option("--aggregation", "-a", required=True, type=click.Choice([str(kind) for kind in Aggregation]))
@click.option("--name", help="For people.")
@click.option("--unit", help="For people.")
@click.option("--event-type", help="The events it listens to; by default its code.")
@click.option("--value-property", help="The property to aggregate; by default the event's value.")
@click.option("--dimension", "-d", "dimensions", multiple=True, help="key, or key=value,value,…; repeatable.")
@click.option("--period", type=click.Choice(["calendar", "fixed", "day", "week"]))
@click.option("--billing-cycle-day", type=click.IntRange(1, 28), help="First day of a calendar period.")
@click.option("--days", type=click.IntRange(min=1), help="Length of a fixed period.")
@click.option("--threshold", "thresholds", type=pair, multiple=True, help="code=value; repeatable.")
def create(
    code: str,
    aggregation: str,
    name: str | None,
    unit: str | None,
    event_type: str | None,
    value_property: str | None,
    dimensions: tuple[str, ...],
    period: str | None,
    billing_cycle_day: int | None,
    days: int | None,
    thresholds: tuple[tuple[str, str], ...],
) -> None:
    """Create the metric CODE."""
    if period is None and (billing_cycle_day or days):
        period = "calendar" if billing_cycle_day else "fixed"
    try:
        tells = [Threshold(threshold, value) for threshold, value in thresholds]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--threshold") from None
    with open_client() as client:
        metric = client.metrics.create(
            code,
            aggregation,
            name=name,
            unit=unit,
            event_type=event_type,
            value_property=value_property,
            dimensions=[_dimension(text) for text in dimensions],
            period=None if period is None else MetricPeriod(period, billing_cycle_day, days),
            thresholds=tells,
        )
    click.echo(f"Created {metric.code}: {metric.aggregation} of events of type {metric.event_type}.")


def _dimension(text: str) -> Dimension:
    key, mark, values = text.partition("=")
    return Dimension(key, tuple(values.split(",")) if mark else None)


@metrics.command()
@click.argument("code")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def show(code: str, is_json: bool) -> None:
    """Show the metric CODE."""
    with open_client() as client:
        metric = client.metrics.get(code)
    if is_json:
        print_json(asdict(metric))
        return
    for name, value in _description(metric).items():
        click.echo(f"{name:<15} {value}")


def _description(metric: Metric) -> dict[str, str]:
    cycle = (metric.period.type, metric.period.billing_cycle_day, metric.period.days)
    facts = {
        "code": metric.code,
        "name": metric.name,
        "description": metric.description,
        "unit": metric.unit,
        "aggregation": str(metric.aggregation),
        "event type": metric.event_type,
        "value property": metric.value_property or "(the event's value)",
        "dimensions": "; ".join(_dimension_text(dimension) for dimension in metric.dimensions),
        "period": " ".join(str(value) for value in cycle if value is not None),
        "thresholds": ", ".join(f"{threshold.code} at {threshold.value:f}" for threshold in metric.thresholds),
        "archived": "" if metric.archived_at is None else metric.archived_at.isoformat(),
    }
    return {name: value for name, value in facts.items() if value}


def _dimension_text(dimension: Dimension) -> str:
    return dimension.key if dimension.values is None else f"{dimension.key} ({', '.join(dimension.values)})"


@metrics.command()
@click.argument("code")
def archive(code: str) -> None:
    """Archive the metric CODE: its history stays, new events no longer reach it."""
    with open_client() as client:
        client.metrics.delete(code)
    click.echo(f"Archived {code}.")
