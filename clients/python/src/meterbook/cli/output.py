"""How answers are printed: a table for people, JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
Row = Mapping[str, Any]

# What a spreadsheet would run as a formula when a cell begins with it.
_FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")


def format_options(command: F) -> F:
    """Add `--json`, `--csv` and `--format`, which arrive as `style`."""
    by_name = click.option("--format", "style", type=click.Choice(["table", "json", "csv"]), help="The same by name.")
    as_json = click.option("--json", "style", flag_value="json", help="Print JSON.")
    as_csv = click.option("--csv", "style", flag_value="csv", help="Print CSV.")
    return as_json(as_csv(by_name(command)))


def print_rows(rows: Sequence[Row], columns: Sequence[str], style: str | None) -> None:
    if style == "json":
        print_json([{column: row.get(column) for column in columns} for row in rows])
    elif style == "csv":
        _print_csv(rows, columns)
    else:
        _print_table(rows, columns)


def print_json(body: Any) -> None:
    click.echo(json.dumps(body, indent=2, ensure_ascii=False, default=_json_text))


def json_line(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, default=_json_text)


def print_answer(body: Any) -> None:
    """Print an answer as the server gave it: its numbers are numbers, with all their digits."""
    click.echo(_render(body, ""))


def print_answer_line(body: Any) -> None:
    """The same on one line."""
    click.echo(_render(body, None))


def _render(value: Any, indent: str | None) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False)
    inner = None if indent is None else f"{indent}  "
    if isinstance(value, list):
        return _enclose("[", [_render(item, inner) for item in value], "]", indent)
    members = [f"{json.dumps(name, ensure_ascii=False)}: {_render(item, inner)}" for name, item in value.items()]
    return _enclose("{", members, "}", indent)


def _enclose(opening: str, members: Sequence[str], closing: str, indent: str | None) -> str:
    if indent is None:
        return f"{opening}{', '.join(members)}{closing}"
    lines = ",\n".join(f"{indent}  {member}" for member in members)
    return f"{opening}\n{lines}\n{indent}{closing}"


def _print_csv(rows: Iterable[Row], columns: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(row.get(column)) for column in columns] for row in rows)


def _print_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    cells = [[table_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[place]) for line in [list(columns), *cells]) for place in range(len(columns))]
    is_number = [
        any(isinstance(row.get(column), int | Decimal) for row in rows) and column != "start" for column in columns
    ]
    for line in [list(columns), *cells]:
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, is_number, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def table_cell(value: Any) -> str:
    """Return a value as people read it: digits in groups, and nothing that a terminal would obey."""
    if value is None:
        return "-"
    if isinstance(value, Decimal):
        return format(value, ",f")
    if isinstance(value, int) and not isinstance(value, bool):
        return format(value, ",d")
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    # Names come from events, which anybody with a key may have sent: no control sequences to the terminal.
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    text = _json_text(value)
    return "'" + text if isinstance(value, str) and text.startswith(_FORMULA_MARKS) else text


def _json_text(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.isoformat() if isinstance(value, datetime) else str(value)
