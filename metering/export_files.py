"""A usage table as a file to download, for the API and for pages.

The file is written whole, in one snapshot of the data, before the answer begins: an export that fails answers an
error and not the first half of a file, and a slow receiver holds no transaction open. It waits on disk when large.
"""

from contextlib import ExitStack
from tempfile import SpooledTemporaryFile

from django.http import FileResponse

from metering.export_formats import ExportFormat, export_file_name
from metering.queries.exports import ExportSelection, UsageTable, export_snapshot

# Up to here a file stays in memory.
SPOOL_BYTES = 1024 * 1024


def answer_with_file(table: UsageTable, selection: ExportSelection, export_format: ExportFormat) -> FileResponse:
    """Raises `InvalidInput` when the table is too long, or its range is no longer kept."""
    with ExitStack() as opened:
        file = opened.enter_context(SpooledTemporaryFile(max_size=SPOOL_BYTES))
        with export_snapshot():
            export_format.write(table, file)
        file.seek(0)
        opened.pop_all()  # from here on the answer closes it
    return FileResponse(
        file,
        as_attachment=True,
        filename=export_file_name(selection, export_format),
        content_type=export_format.content_type,
    )
