"""`meterbook analytics`: what was requested through the organization's API."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from meterbook.cli.output import Row, format_options, print_answer, print_answer_line, print_rows, table_cell
from meterbook.cli.selection import age, check_range, list_options, name, selection_options, status
from meterbook.cli.settings import open_client

TIMES = ["hour", "day", "month"]
CALENDAR_GROUPS = ["user", "route", "status", "method"]
GROUPS = [*TIMES, "path", *CALENDAR_GROUPS]
# How the numbers of a row are called in a table.
LATENCIES = {"mean": "mean_ms", "p50": "p50_ms", "p95": "p95_ms", "p99": "p99_ms"}
NUMBERS = ["requests", "errors", "error_rate", "metered_units", "bytes", *LATENCIES.values()]
LIVE_COLUMNS = ["timestamp", "user_id", "method", "path", "status_code", "latency_ms", "metered_units", "route_id"]


@click.group()
def analytics() -> None:
    """See what was requested through your API: by user, by route, over time, as it comes."""


@analytics.command()
@selection_options
@format_options
def summary(style: str | None, **selection: Any) -> None:
    """Show the totals, the rate of errors and the latencies; by default of the last 30 days."""
    check_range(selection["start"], selection["end"])
    with open_client() as client:
        answer = client.analytics.summary(**selection)
    if style == "json":
        print_answer(answer)
        return
    facts = _flatten(answer["data"]["attributes"])
    print_rows([{"": fact, "value": value} for fact, value in facts.items()], ["", "value"], style)


@analytics.command()
@list_options
@format_options
def users(style: str | None, **selection: Any) -> None:
    """List the users."""
    _print_list("users", selection, style)


@analytics.command()
@list_options
@format_options
def routes(style: str | None, **selection: Any) -> None:
    """List the routes."""
    _print_list("routes", selection, style)


@analytics.command()
@click.option("--group-by", type=click.Choice(TIMES), help="By default days.")
@list_options
@format_options
def requests(style: str | None, **selection: Any) -> None:
    """Show the requests over time."""
    _print_list("requests", selection, style)


@analytics.command()
@click.option("--group-by", type=click.Choice(CALENDAR_GROUPS), help="What to split each day by.")
@list_options
@format_options
def daily(style: str | None, **selection: Any) -> None:
    """List the days with requests."""
    _print_list("daily", selection, style)


@analytics.command()
@click.option("--group-by", type=click.Choice(CALENDAR_GROUPS), help="What to split each month by.")
@list_options
@format_options
def monthly(style: str | None, **selection: Any) -> None:
    """List the months with requests."""
    _print_list("monthly", selection, style)


@analytics.command()
@click.option("--group-by", type=click.Choice(GROUPS), required=True, help="What the rows are of.")
@list_options
@format_options
def aggregate(style: str | None, **selection: Any) -> None:
    """List the requests by whatever --group-by names."""
    _print_list("aggregate", selection, style)


@analytics.command()
@selection_options
@click.option("--format", "style", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
def export(style: str, **selection: Any) -> None:
    """Write every single request to the standard output."""
    check_range(selection["start"], selection["end"])
    output = sys.stdout.buffer
    with open_client() as client:
        for piece in client.analytics.export(format=style, **selection):
            output.write(piece)
    output.flush()


@analytics.command()
@click.option("--user", type=name, help="Of one user.")
@click.option("--route", type=name, help="Of one route.")
@click.option("--status", type=status, help="Of one status, like 404, or a class of them, like 5xx.")
@click.option("--json", "is_json", is_flag=True, help="Print NDJSON.")
def live(is_json: bool, **selection: Any) -> None:
    """Watch requests as they are recorded, until interrupted."""
    with open_client() as client:
        for request in client.analytics.live(**selection):
            if is_json:
                print_answer_line(request)
            else:
                click.echo("  ".join(table_cell(request.get(column)) for column in LIVE_COLUMNS))


@analytics.command()
@click.option("--older-than", "days", type=age, required=True, help="A number of days, like 30d.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be deleted.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def cleanup(days: int, dry_run: bool, is_json: bool) -> None:
    """Delete single requests that are older. What was counted of them stays."""
    with open_client() as client:
        answer = client.analytics.cleanup(older_than_days=days, dry_run=dry_run)
    if is_json:
        print_answer(answer)
        return
    done = answer["data"]["attributes"]
    verb = "Would delete" if done["dry_run"] else "Deleted"
    click.echo(f"{verb} {done['rows']['events']} requests from before {done['requests_before']}.")
    if not done["finished"]:
        click.echo("The rest follows by itself.")


def _print_list(kind: str, selection: dict[str, Any], style: str | None) -> None:
    check_range(selection["start"], selection["end"])
    with open_client() as client:
        answer = getattr(client.analytics, kind)(**selection)
    if style == "json":
        print_answer(answer)
        return
    rows = [_flatten(row["attributes"]) for row in answer["data"]]
    names = [column for column in (rows[0] if rows else {}) if column not in NUMBERS]
    print_rows(rows, [*names, *NUMBERS], style)


def _flatten(attributes: Mapping[str, Any]) -> Row:
    """Return the attributes side by side, the latencies and counts within them by names of their own."""
    row: dict[str, Any] = {}
    for key, value in attributes.items():
        if key == "latency_ms":
            row |= {LATENCIES[which]: latency for which, latency in value.items()}
        elif isinstance(value, Mapping):
            row |= {f"{key} {which}": count for which, count in _flatten(value).items()}
        else:
            row[key] = value
    return row
