"""`meterbook settings`: the organization's settings on the server, such as how long requests are kept."""

from __future__ import annotations

from typing import Any

import click

from meterbook.cli.output import format_options, print_answer, print_rows, table_cell
from meterbook.cli.selection import name
from meterbook.cli.settings import open_client


@click.group()
def settings() -> None:
    """Read and change the settings of request tracking."""


@settings.command()
@click.argument("setting", type=name, required=False)
@format_options
def get(setting: str | None, style: str | None) -> None:
    """Show the value of SETTING, or all settings."""
    with open_client() as client:
        found = client.settings.get()
    if setting is not None:
        if setting not in found:
            raise click.UsageError(f"There is no setting {setting!r}; there are {', '.join(sorted(found))}.")
        click.echo(_as_written(found[setting]))
    elif style == "json":
        print_answer(found)
    else:
        print_rows([{"setting": key, "value": _as_written(found[key])} for key in found], ["setting", "value"], style)


@settings.command(context_settings={"ignore_unknown_options": True})
@click.argument("setting", type=name)
@click.argument("value")
def set(setting: str, value: str) -> None:
    """Set SETTING to VALUE, and show it."""
    with open_client() as client:
        found = client.settings.set(**{setting: value})
    click.echo(f"{setting} = {_as_written(found[setting])}")


def _as_written(found: Any) -> str:
    """Return a value as it can be given to `set`."""
    return str(found).lower() if isinstance(found, bool) else table_cell(str(found))
