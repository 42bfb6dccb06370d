"""Recorded requests as a file that is sent while it is read: CSV, or one JSON array.

A page of rows at a time, so that neither memory nor a transaction grows with the file. What fails on the way cuts
the file short, which its reader notices: a chunked answer that does not end, an array that is not closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from django.http import StreamingHttpResponse

from metering.export_formats import csv_pieces
from metering.queries.exports import UsageTable
from usage_reports.gateway.engine import Selection
from usage_reports.gateway.records import COLUMNS, list_pages, record_json

CONTENT_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


def answer_with_requests(selection: Selection, file_format: str) -> StreamingHttpResponse:
    """Begin the file, so that what is refused is refused with a status, and answer with it."""
    pieces = _WRITERS[file_format](selection)
    first = [next(pieces), next(pieces, b"")]
    answer = StreamingHttpResponse(chain(first, pieces), content_type=CONTENT_TYPES[file_format])
    span = selection.span
    name = f"requests-{span.start:%Y-%m-%d}-{span.end:%Y-%m-%d}.{file_format}"
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


def _csv_pieces(selection: Selection) -> Iterator[bytes]:
    return csv_pieces(UsageTable(COLUMNS, lambda: chain.from_iterable(list_pages(selection))))


def _json_pieces(selection: Selection) -> Iterator[bytes]:
    yield b"["
    separator = b"\n"
    for page in list_pages(selection):
        if page:
            yield separator + b",\n".join(map(record_json, page))
            separator = b",\n"
    yield b"\n]\n"


_WRITERS: dict[str, Callable[[Selection], Iterator[bytes]]] = {"csv": _csv_pieces, "json": _json_pieces}
