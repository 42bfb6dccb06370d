"""Files as events: CSV and NDJSON rows, which column is what, and a key that is the same at every run.

Owns the reading; sends nothing.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

from meterbook.events import new_key


class BadRecord(Exception):
    """A row that cannot be read; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what. The names are those of an event's own fields unless given.

    Every other column becomes a property, or only those in `properties` (column to property name) where given.
    """

    customer: str = "customer"
    type: str | None = None
    value: str = "value"
    timestamp: str = "timestamp"
    key: str = "idempotency_key"
    operation: str = "operation"
    properties: Mapping[str, str] | None = None
    # Columns of a text file that hold numbers. Without being told, "01" is a name as likely as a number.
    numbers: frozenset[str] = frozenset()
    # What every event of the file names, where no column does.
    constant_type: str | None = None
    constant_customer: str | None = None
    # The zone of times that name none; without it such times are refused.
    zone: ZoneInfo | None = None

    def as_event(self, record: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Return the event that a row stands for. An empty cell is an absent field. Raises `ValueError`."""
        remaining = {column: value for column, value in record.items() if value not in (None, "")}
        event: dict[str, Any] = {
            "customer": remaining.pop(self.customer, self.constant_customer),
            "value": remaining.pop(self.value, None),
            "timestamp": self._time(remaining.pop(self.timestamp, None)),
            "operation": remaining.pop(self.operation, None),
            "idempotency_key": remaining.pop(self.key, None) or key,
            **self._named_type(remaining),
        }
        if event["customer"] is None:
            raise ValueError(f"there is no column {self.customer!r} and no --customer")
        nested = remaining.pop("properties", None)
        properties = {**nested} if isinstance(nested, dict) else {}
        wanted = self.properties if self.properties is not None else {column: column for column in remaining}
        for column, name in wanted.items():
            if column in remaining:
                properties[name] = self._property(column, remaining[column])
        return {**event, "properties": properties}

    def _named_type(self, remaining: dict[str, Any]) -> dict[str, Any]:
        if self.type is not None:
            return {"type": remaining.pop(self.type, self.constant_type)}
        named: dict[str, Any] = {name: remaining.pop(name) for name in ("type", "metric") if name in remaining}
        if not named and self.constant_type is None:
            raise ValueError("there is no column 'type' or 'metric' and no --type")
        return named or {"type": self.constant_type}

    def _time(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.isdecimal():
            return int(value)
        if self.zone is None:
            return value
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=self.zone)).isoformat()

    def _property(self, column: str, value: Any) -> Any:
        if column not in self.numbers or not isinstance(value, str):
            return value
        try:
            number = Decimal(value)
        except InvalidOperation:
            raise ValueError(f"{value!r} in column {column!r} is not a number") from None
        return number


@dataclass(frozen=True, slots=True)
class Row:
    """One event of a file, with its place: the first row after a header is number 1."""

    number: int
    event: dict[str, Any]


def read_rows(file: BinaryIO, *, name: str, style: str, columns: Columns, source: str | None) -> Iterator[Row]:
    """Read a file's events. Raises `BadRecord` at the first row that cannot be read; the rows before it are good.

    A row without a key of its own gets one made of `source`, its number and its content: the same at every run, so
    that a run can be repeated after an interruption, also when rows were appended. Without a source it is random.
    """
    records = _csv_records(file) if style == "csv" else _json_records(file)
    number = 0
    try:
        for number, record in enumerate(records, start=1):
            yield Row(number, columns.as_event(record, _row_key(source, number, record)))
    except BadRecord as error:
        raise BadRecord(f"{name}, row {number + 1}: {error}") from None
    except ValueError as error:
        raise BadRecord(f"{name}, row {number}: {error}") from None


def _row_key(source: str | None, number: int, record: Mapping[str, Any]) -> str:
    if source is None:
        return new_key()
    content = json.dumps([source, number, record], sort_keys=True, default=str)
    return f"row-{hashlib.sha256(content.encode(errors='surrogatepass')).hexdigest()[:40]}"


def _csv_records(file: BinaryIO) -> Iterator[dict[str, Any]]:
    try:
        for record in csv.DictReader(_text_lines(file), strict=True):
            if None in record or None in record.values():
                raise BadRecord("it has more or fewer fields than the header")
            yield record
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadRecord(str(error)) from None


def _text_lines(file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file):
        yield line.decode("utf-8-sig" if number == 0 else "utf-8")


def _json_records(file: BinaryIO) -> Iterator[dict[str, Any]]:
    for line in file:
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_float=Decimal)
        except ValueError as error:
            raise BadRecord(f"not JSON: {error}") from None
        if not isinstance(record, dict):
            raise BadRecord("not a JSON object")
        yield record
