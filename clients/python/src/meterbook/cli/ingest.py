"""`meterbook ingest`: send the rows of files as events."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, BinaryIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from meterbook.cli.output import json_line
from meterbook.cli.records import BadRecord, Columns, Row, read_rows
from meterbook.cli.settings import open_client
from meterbook.client import Client
from meterbook.errors import EventError, ValidationError
from meterbook.events import IngestResult
from meterbook.verbs.events import MAX_EVENTS_PER_REQUEST

STANDARD_INPUT = "-"


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--format", "style", type=click.Choice(["csv", "ndjson"]), help="By default told from the file's name.")
@click.option("--type", "constant_type", help="Type (or metric) of events that name none.")
@click.option("--customer", "constant_customer", help="Customer of events that name none.")
@click.option("--customer-column", "customer", default="customer", show_default=True)
@click.option("--type-column", "type_column", help="By default type or metric.")
@click.option("--value-column", "value", default="value", show_default=True)
@click.option("--time-column", "timestamp", default="timestamp", show_default=True)
@click.option("--key-column", "key", default="idempotency_key", show_default=True)
@click.option("--operation-column", "operation", default="operation", show_default=True)
@click.option(
    "--property", "properties", multiple=True, help="column, or column=property. By default every other column."
)
@click.option("--number", "numbers", multiple=True, help="A column of numbers; by default all are text.")
@click.option("--tz", "zone", help="Zone of times that name none.")
@click.option("--source", help="Name of the rows' origin, from which keys are made. By default the file's name.")
@click.option("--durability", type=click.Choice(["sync", "async"]))
@click.option("--batch-size", type=click.IntRange(1, MAX_EVENTS_PER_REQUEST), default=MAX_EVENTS_PER_REQUEST)
@click.option("--errors", "errors_path", type=click.Path(dir_okay=False), help="Write rejected events here, as NDJSON.")
def ingest(
    files: tuple[str, ...],
    style: str | None,
    constant_type: str | None,
    constant_customer: str | None,
    customer: str,
    type_column: str | None,
    value: str,
    timestamp: str,
    key: str,
    operation: str,
    properties: tuple[str, ...],
    numbers: tuple[str, ...],
    zone: str | None,
    source: str | None,
    durability: str | None,
    batch_size: int,
    errors_path: str | None,
) -> int:
    """Send the rows of FILES (CSV with a header, NDJSON, or - for the input) as events.

    Safe to run again after an interruption: a row has the same key every time, taken from its key column or made of
    the source's name, the row's number and its content. Rows from the input have such keys only with --source.
    """
    columns = Columns(
        customer=customer,
        type=type_column,
        value=value,
        timestamp=timestamp,
        key=key,
        operation=operation,
        properties=dict(_property_names(properties)) if properties else None,
        numbers=frozenset(numbers),
        constant_type=constant_type,
        constant_customer=constant_customer,
        zone=_zone(zone),
    )
    _refuse_shared_source(files, source)
    with open_client() as client, _rejects(errors_path) as rejects:
        sender = _Sender(client, rejects, batch_size, durability)
        for path in files:
            _send_file(sender, path, style or _style(path), columns, source)
        sender.report()
    return 2 if sender.total.rejected else 0


def _refuse_shared_source(files: tuple[str, ...], source: str | None) -> None:
    """Two files of one source would have the same key for equal rows at the same place, and count them once."""
    names = [Path(path).name for path in files]
    if len(files) > 1 and (source is not None or len(set(names)) < len(names)):
        raise click.UsageError("Send files of one name or source one at a time, each with its own --source.")


class _Sender:
    """Sends batches and adds up the verdicts."""

    def __init__(self, client: Client, rejects: IO[str] | None, batch_size: int, durability: str | None) -> None:
        self.total = IngestResult()
        self.batch_size = batch_size
        self._client = client
        self._rejects = rejects
        self._durability = durability
        self._first_refusal = ""

    def send(self, name: str, batch: list[Row]) -> None:
        try:
            result = self._client.ingest([row.event for row in batch], durability=self._durability)
        except ValidationError as error:
            if error.result is None:
                raise
            result = error.result
        for refusal in result.errors:
            self._note(name, batch[refusal.index], refusal)
        self.total += IngestResult(result.stored, result.duplicates, result.rejected, result.accepted)

    def report(self) -> None:
        total = self.total
        verdicts = {"stored": total.stored, "accepted": total.accepted, "duplicates": total.duplicates}
        parts = [f"{count:,} {verdict}" for verdict, count in verdicts.items() if count or verdict == "stored"]
        click.echo(", ".join(parts))
        if total.rejected:
            click.echo(f"meterbook: {total.rejected:,} rejected; the first: {self._first_refusal}", err=True)

    def _note(self, name: str, row: Row, refusal: EventError) -> None:
        self._first_refusal = self._first_refusal or f"{name}, row {row.number}: {refusal.code}, {refusal.message}"
        if self._rejects is not None:
            facts = {"row": row.number, "code": refusal.code, "field": refusal.field, "message": refusal.message}
            self._rejects.write(json_line({**facts, "event": row.event}) + "\n")


def _send_file(sender: _Sender, path: str, style: str, columns: Columns, source: str | None) -> None:
    is_input = path == STANDARD_INPUT
    name = "input" if is_input else path
    origin = source if is_input or source is not None else Path(path).name
    with _opened(path) as file, _progress(file, name) as advance:
        rows = read_rows(file, name=name, style=style, columns=columns, source=origin)
        try:
            while batch := list(islice(rows, sender.batch_size)):
                sender.send(name, batch)
                advance()
        except BadRecord as error:
            raise click.UsageError(f"{error} (what came before it in full batches is sent)") from None
        except ValueError as error:
            raise click.UsageError(f"{name}: {error}") from None


def _opened(path: str) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(sys.stdin.buffer) if path == STANDARD_INPUT else open(path, "rb")


@contextlib.contextmanager
def _progress(file: BinaryIO, name: str) -> Iterator[Callable[[], None]]:
    """Show how much of the file is read, to people only; yield what is to be called after each batch."""
    if not sys.stderr.isatty() or not file.seekable():
        yield lambda: None
        return
    size = os.fstat(file.fileno()).st_size
    with click.progressbar(length=size, label=name, file=sys.stderr) as bar:
        yield lambda: bar.update(file.tell() - bar.pos)
        bar.update(size - bar.pos)


@contextlib.contextmanager
def _rejects(path: str | None) -> Iterator[IO[str] | None]:
    if path is None:
        yield None
        return
    with open(path, "w", encoding="utf-8") as file:
        yield file


def _style(path: str) -> str:
    if path.endswith(".csv"):
        return "csv"
    if path.endswith((".ndjson", ".jsonl")) or path == STANDARD_INPUT:
        return "ndjson"
    raise click.UsageError(f"Say with --format what {path} is: csv or ndjson.")


def _property_names(properties: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for text in properties:
        column, _, name = text.partition("=")
        yield column, name or column


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise click.BadParameter(f"{name!r} is not a zone like Europe/Berlin.", param_hint="--tz") from None
