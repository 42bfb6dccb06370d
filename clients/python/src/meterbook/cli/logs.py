"""`meterbook logs`: what the server noted, for whoever looks why something is not counted."""

from __future__ import annotations

import click

from meterbook.cli.output import format_options, print_answer, print_rows
from meterbook.cli.settings import open_client

MAX_ENTRIES = 1000
COLUMNS = ["at", "level", "code", "message"]


@click.command()
@click.option(
    "--filter", "kind", type=click.Choice(["usage"]), default="usage", show_default=True, help="Which entries."
)
@click.option("--limit", "-n", type=click.IntRange(1, MAX_ENTRIES), help="At most so many.")
@format_options
def logs(kind: str, limit: int | None, style: str | None) -> None:
    """Show what the server noted about recording usage, the newest first."""
    with open_client() as client:
        entries = client.logs.list(filter=kind, limit=limit)
    if style == "json":
        print_answer(entries)
        return
    print_rows(entries, COLUMNS, style)
