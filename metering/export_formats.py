"""How a usage table is written: CSV, NDJSON, Parquet. A few rows at a time, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Context, Decimal
from itertools import islice
from typing import IO, Any, NamedTuple

import msgspec

from common.moments import rfc3339
from common.numbers import exact_text
from metering.queries.exports import Cell, Column, ColumnKind, ExportSelection, UsageTable

ROWS_AT_ONCE = 5_000
# A spreadsheet takes text that begins with one of these for a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
# Parquet's widest common decimal: 20 digits before the point and 18 behind.
DECIMAL_DIGITS, DECIMAL_PLACES = 38, 18
WIDE = Context(prec=200)

_json = msgspec.json.Encoder()


class ExportFormat(NamedTuple):
    extension: str
    content_type: str
    write: Callable[[UsageTable, IO[bytes]], None]


def _chunks(rows: Iterator[tuple[Cell, ...]]) -> Iterator[list[tuple[Cell, ...]]]:
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        yield chunk


# --- CSV ------------------------------------------------------------------------------------------------------


def write_csv(table: UsageTable, file: IO[bytes]) -> None:
    for piece in csv_pieces(table):
        file.write(piece)


def csv_pieces(table: UsageTable) -> Iterator[bytes]:
    """Yield RFC 4180 in UTF-8. An absent value is an empty cell, an empty text a pair of quotes."""
    writers = [CSV_CELLS[column.kind] for column in table.columns]
    yield (",".join(_csv_text(column.name) for column in table.columns) + "\r\n").encode()
    for chunk in _chunks(table.rows()):
        lines = [_csv_line(row, writers) for row in chunk]
        yield "".join(lines).encode()


def _csv_line(row: tuple[Cell, ...], writers: Sequence[Callable[[Any], str]]) -> str:
    cells = ["" if cell is None else write(cell) for cell, write in zip(row, writers, strict=True)]
    return ",".join(cells) + "\r\n"


def _csv_text(text: str) -> str:
    """Return the text as a cell that no spreadsheet calculates: an apostrophe before what looks like a formula."""
    if text.startswith(FORMULA_STARTS):
        text = f"'{text}"
    if not text or any(mark in text for mark in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _csv_flag(flag: bool) -> str:
    return "true" if flag else "false"


CSV_CELLS: dict[ColumnKind, Callable[[Any], str]] = {
    ColumnKind.TEXT: _csv_text,
    ColumnKind.QUANTITY: exact_text,
    ColumnKind.COUNT: str,
    ColumnKind.TIME: rfc3339,
    ColumnKind.FLAG: _csv_flag,
}


# --- NDJSON ---------------------------------------------------------------------------------------------------


def write_ndjson(table: UsageTable, file: IO[bytes]) -> None:
    """Write one object a line, with quantities as decimal strings like everywhere in the API."""
    names = [column.name for column in table.columns]
    for chunk in _chunks(table.rows()):
        objects = [dict(zip(names, map(_json_cell, row), strict=True)) for row in chunk]
        file.write(_json.encode_lines(objects))


def _json_cell(cell: Cell) -> str | int | bool | None:
    match cell:
        case Decimal():
            return exact_text(cell)
        case datetime():
            return rfc3339(cell)
    return cell


# --- Parquet --------------------------------------------------------------------------------------------------


def write_parquet(table: UsageTable, file: IO[bytes]) -> None:
    """Write quantities as decimal128(38, 18), or as text in the columns where one of them does not fit that.

    Which columns those are shows only on the way; then the file begins anew.
    """
    textual: set[str] = set()
    while misfits := _write_parquet(table, file, textual):
        textual |= misfits
        file.seek(0)
        file.truncate()


def _write_parquet(table: UsageTable, file: IO[bytes], textual: set[str]) -> set[str]:
    """Return the quantity columns that turned out not to fit, and stop there."""
    import pyarrow as pa  # here: large, and only this format needs it
    import pyarrow.parquet

    decimal = pa.decimal128(DECIMAL_DIGITS, DECIMAL_PLACES)
    types = {
        ColumnKind.TEXT: pa.string(),
        ColumnKind.QUANTITY: decimal,
        ColumnKind.COUNT: pa.int64(),
        ColumnKind.TIME: pa.timestamp("us", tz="UTC"),
        ColumnKind.FLAG: pa.bool_(),
    }
    fields = [(column.name, pa.string() if column.name in textual else types[column.kind]) for column in table.columns]
    schema = pa.schema(fields)
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for chunk in _chunks(table.rows()):
            cells_by_column = list(zip(*chunk, strict=True))
            misfits = {
                column.name
                for column, cells in zip(table.columns, cells_by_column, strict=True)
                if column.kind == ColumnKind.QUANTITY and column.name not in textual and not all(map(_fits, cells))
            }
            if misfits:
                return misfits
            arrays = [
                pa.array(_parquet_cells(column, cells, textual), kind)
                for column, cells, (_, kind) in zip(table.columns, cells_by_column, fields, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return set()


def _fits(cell: Any) -> bool:
    if cell is None:
        return True
    number = WIDE.normalize(cell)
    exponent = number.as_tuple().exponent
    return (
        isinstance(exponent, int)
        and exponent >= -DECIMAL_PLACES
        and number.adjusted() < DECIMAL_DIGITS - DECIMAL_PLACES
    )


def _parquet_cells(column: Column, cells: Sequence[Cell], textual: set[str]) -> Sequence[Cell]:
    if column.name not in textual:
        return cells
    return [exact_text(cell) if isinstance(cell, Decimal) else None for cell in cells]


FORMATS = {
    "csv": ExportFormat("csv", "text/csv; charset=utf-8", write_csv),
    "ndjson": ExportFormat("ndjson", "application/x-ndjson", write_ndjson),
    "parquet": ExportFormat("parquet", "application/vnd.apache.parquet", write_parquet),
}


def export_file_name(selection: ExportSelection, export_format: ExportFormat) -> str:
    """Return a name that every file system takes: a code may hold a colon."""
    code = selection.metric.code.replace(":", "_")
    return f"usage-{code}-{selection.span.start:%Y-%m-%d}-{selection.span.end:%Y-%m-%d}.{export_format.extension}"
