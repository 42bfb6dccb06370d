"""`meterbook alerts` and `meterbook thresholds`."""

from __future__ import annotations

from dataclasses import asdict

import click

from meterbook.alerts import Alert, StoredThreshold, ThresholdTrace
from meterbook.cli.options import grouped, pair
from meterbook.cli.output import Row, format_options, json_line, print_json, print_rows, table_cell
from meterbook.cli.settings import open_client
from meterbook.client import Client

ALERT_COLUMNS = [
    *("offset", "triggered_at", "customer", "metric", "threshold_code"),
    *("threshold_value", "value_at_cross", "period_start", "period_end"),
]
LINE_COLUMNS = ALERT_COLUMNS[:7]
THRESHOLD_COLUMNS = ["id", "code", "metric", "customer", "kind", "value", "recurring", "origin", "filters"]
KINDS = ("value", "percent_of_included", "projected", "silence_seconds")


@click.group()
def alerts() -> None:
    """See which thresholds were crossed."""


@alerts.command("list")
@click.option("--since", type=click.IntRange(min=0), help="Only alerts after this offset.")
@click.option("--customer", "-c", "customers", multiple=True, help="Of this customer; repeatable.")
@click.option("--metric", "-m", "metrics", multiple=True, help="Of this metric; repeatable.")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@click.option("--follow", "-f", is_flag=True, help="Show alerts as they come, until interrupted; --json is NDJSON.")
@format_options
def list_alerts(
    since: int | None,
    customers: tuple[str, ...],
    metrics: tuple[str, ...],
    limit: int,
    follow: bool,
    style: str | None,
) -> None:
    """List alerts, oldest first, or follow them: from now on, or after --since."""
    with open_client() as client:
        if follow:
            _follow(client, since, customers, metrics, style)
            return
        found = client.alerts.list(since=since or 0, customers=customers, metrics=metrics, limit=limit)
        print_rows([_alert_row(alert) for alert in found], ALERT_COLUMNS, style)


def _follow(
    client: Client, since: int | None, customers: tuple[str, ...], metrics: tuple[str, ...], style: str | None
) -> None:
    if style == "csv":
        raise click.UsageError("--follow prints lines or, with --json, NDJSON.")
    with client.alerts.subscribe(since_offset=since, customers=customers, metrics=metrics) as subscription:
        for alert in subscription:
            row = _alert_row(alert)
            line = json_line(row) if style == "json" else "  ".join(table_cell(row[name]) for name in LINE_COLUMNS)
            click.echo(line)


def _alert_row(alert: Alert) -> dict[str, object]:
    facts = {name: getattr(alert, name) for name in ALERT_COLUMNS[:7]}
    return {**facts, "period_start": alert.period.start, "period_end": alert.period.end}


@click.group()
def thresholds() -> None:
    """Say what is worth an alert."""


@thresholds.command("list")
@click.option("--metric", "-m", help="Of one metric.")
@click.option("--customer", "-c", help="Of one customer.")
@format_options
def list_thresholds(metric: str | None, customer: str | None, style: str | None) -> None:
    """List the thresholds, those that metrics and quotas declare included."""
    with open_client() as client:
        found = client.thresholds.list(metric=metric, customer=customer)
    print_rows([_threshold_row(threshold) for threshold in found], THRESHOLD_COLUMNS, style)


@thresholds.command()
@click.argument("code")
@click.argument("metric")
@click.option("--value", help="The usage to reach in a period.")
@click.option("--percent", "percent_of_included", help="Percent of what the customer's plan includes.")
@click.option("--projected", help="The usage to which the period is heading.")
@click.option("--silence", "silence_seconds", type=click.IntRange(min=1), help="Seconds without an event.")
@click.option("--customer", "-c", help="Of one customer; by default of each.")
@click.option("--filter", "-f", "filters", type=pair, multiple=True, help="dimension=value; repeatable.")
@click.option("--recurring", is_flag=True, help="Tell at every further multiple too.")
def create(
    code: str,
    metric: str,
    value: str | None,
    percent_of_included: str | None,
    projected: str | None,
    silence_seconds: int | None,
    customer: str | None,
    filters: tuple[tuple[str, str], ...],
    recurring: bool,
) -> None:
    """Create the threshold CODE on METRIC."""
    with open_client() as client:
        try:
            threshold = client.thresholds.create(
                code,
                metric,
                value=value,
                percent_of_included=percent_of_included,
                projected=projected,
                silence_seconds=silence_seconds,
                customer=customer,
                filters=grouped(filters) or None,
                recurring=recurring,
            )
        except ValueError as error:  # a quantity that is no number
            raise click.UsageError(str(error)) from None
    click.echo(f"Created threshold {threshold.id}: {threshold.code} on {threshold.metric}.")


@thresholds.command()
@click.argument("threshold_id")
@click.option("--customer", "-c", help="Whose usage, where the threshold is about each.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def trace(threshold_id: str, customer: str | None, is_json: bool) -> None:
    """Tell why the threshold THRESHOLD_ID fired, or did not."""
    with open_client() as client:
        found = client.thresholds.trace(threshold_id, customer)
    if is_json:
        print_json(asdict(found))
        return
    click.echo(table_cell(found.explanation))
    print_rows([_trace_row(found)], ["customer", "metric", "usage", "level", "outcome", "start", "end"], None)


@thresholds.command()
@click.argument("threshold_id")
def delete(threshold_id: str) -> None:
    """Stop watching THRESHOLD_ID; what was crossed stays in the log."""
    with open_client() as client:
        client.thresholds.delete(threshold_id)
    click.echo(f"Deleted threshold {threshold_id}.")


def _threshold_row(threshold: StoredThreshold) -> Row:
    facts = asdict(threshold)
    kind = next((name for name in KINDS if facts[name] is not None), None)
    filters = " ".join(f"{key}={','.join(values)}" for key, values in threshold.filters.items())
    return {**facts, "kind": kind, "value": None if kind is None else facts[kind], "filters": filters}


def _trace_row(found: ThresholdTrace) -> Row:
    return {**asdict(found), "start": found.period.start, "end": found.period.end}
