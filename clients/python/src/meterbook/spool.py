"""Events on disk until they are acknowledged, so that they survive the process that buffered them.

A directory of numbered segments, one encoded event a line, in the order of arrival. A segment is deleted when the
server has acknowledged all of it; after a crash the rest is sent again, and the keys keep it from counting twice.
Every event is handed to the operating system before `append` returns: that survives a kill of the process, not a
power cut.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

EVENTS_PER_SEGMENT = 1_000


@dataclass(slots=True)
class _Segment:
    path: Path
    unacknowledged: int
    is_full: bool


class Spool:
    """One directory, used by one process at a time: a second one gets `BlockingIOError`."""

    def __init__(self, directory: Path) -> None:
        import fcntl  # here, so that the rest of the package works where there is none

        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._lock = (directory / "lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._segments: deque[_Segment] = deque()
        self._file: BinaryIO | None = None
        self._written = 0
        self._next_number = 0

    def recover(self) -> list[bytes]:
        """Return what an earlier process left, oldest first. Call once, before the first `append`."""
        events: list[bytes] = []
        for path in sorted(self._directory.glob("*.ndjson")):
            self._next_number = int(path.stem) + 1
            lines = [line for line in path.read_bytes().split(b"\n") if line and _is_whole(line, path)]
            if lines:
                self._segments.append(_Segment(path, len(lines), is_full=True))
                events += lines
            else:
                path.unlink()
        return events

    def append(self, event: bytes) -> None:
        """Write one event. Raises `OSError`, for example when the disk is full; the event is then not kept."""
        if self._file is None:
            self._open_segment()
        assert self._file is not None
        try:
            self._file.write(event + b"\n")
            self._file.flush()
        except OSError:
            self._close_segment()  # half a line may stand at its end: nothing may follow it
            raise
        self._segments[-1].unacknowledged += 1
        self._written += 1
        if self._written >= EVENTS_PER_SEGMENT:
            self._close_segment()

    def acknowledge(self, count: int) -> None:
        """Forget the oldest `count` events."""
        while count and self._segments:
            oldest = self._segments[0]
            settled = min(count, oldest.unacknowledged)
            oldest.unacknowledged -= settled
            count -= settled
            if oldest.unacknowledged:
                return
            if not oldest.is_full:
                self._close_segment()
            self._segments.popleft().path.unlink(missing_ok=True)

    def close(self) -> None:
        self._close_segment()
        self._lock.close()

    def _open_segment(self) -> None:
        path = self._directory / f"{self._next_number:012d}.ndjson"
        self._next_number += 1
        self._file = path.open("wb")
        self._segments.append(_Segment(path, 0, is_full=False))
        self._written = 0

    def _close_segment(self) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # flushing again what could not be written
            self._file.close()
        self._file = None
        self._segments[-1].is_full = True


def _is_whole(line: bytes, path: Path) -> bool:
    """Tell whole events from the beginning of one that a crash cut off, whose `add` had not returned."""
    try:
        json.loads(line)
    except ValueError:
        logger.warning("A torn event at the end of %s was dropped.", path)
        return False
    return True
