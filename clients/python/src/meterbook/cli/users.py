"""`meterbook users`: what one user requested, what is held of it, and its deletion."""

from __future__ import annotations

import sys

import click

from meterbook.cli.output import format_options, print_answer, print_rows, table_cell
from meterbook.cli.selection import month, name
from meterbook.cli.settings import open_client

GOES_ON = ("what was counted stays, without the name.", "the rest follows by itself.")
FACTS = ["period", "total_requests", "total_bytes", "total_metered_units", "quota_limit", "quota_used_percent"]


@click.group()
def users() -> None:
    """Look at one user of your API: usage, and the data that is held."""


@users.command()
@click.argument("user", type=name)
@click.option("--period", "-p", type=month, help="current (default), last, or a month like 2026-11.")
@format_options
def usage(user: str, period: str | None, style: str | None) -> None:
    """Show what USER requested in a month, beside its quota."""
    with open_client() as client:
        answer = client.users.usage(user, period=period)
    if style == "json":
        print_answer(answer)
        return
    found = answer["data"]["attributes"]
    facts = {fact: found[fact] for fact in FACTS}
    facts |= {f"status {status}": count for status, count in found["by_status"].items()}
    facts |= {
        f"route {route['route_name'] or route['route_id'] or '-'}": route["requests"] for route in found["by_route"]
    }
    print_rows([{"": fact, "value": value} for fact, value in facts.items()], ["", "value"], style)


@users.command("export-data")
@click.argument("user", type=name)
def export_data(user: str) -> None:
    """Write everything that is held of USER to the standard output, as JSON."""
    output = sys.stdout.buffer
    with open_client() as client:
        for piece in client.users.export_data(user):
            output.write(piece)
    output.flush()


@users.command("delete-usage")
@click.argument("user", type=name)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def delete_usage(user: str, yes: bool, is_json: bool) -> None:
    """Delete the requests of USER for good; what was counted of them stays, without the name."""
    if sys.stdin.isatty() and not yes:
        click.confirm(f"Delete all requests of {user}? This cannot be undone", abort=True, err=True)
    with open_client() as client:
        answer = client.users.delete_usage(user)
    if is_json:
        print_answer(answer)
        return
    done = answer["data"]["attributes"]
    click.echo(f"Deleted {done['deleted_events']} requests of {table_cell(user)}; {GOES_ON[not done['finished']]}")
