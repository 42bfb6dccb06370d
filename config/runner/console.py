"""The terminal: each process's lines with time and name before them, in colour where somebody watches."""

import os
import time
from queue import Full, Queue
from threading import Thread
from typing import TextIO

NAME_WIDTH = 9
QUEUE_LINES = 10_000
COLOURS = {
    "meterbook": 1,
    "web": 36,
    "stream": 34,
    "worker": 33,
    "beat": 35,
    "courier": 96,
    "forward": 95,
    "demo": 32,
    "redis": 31,
    "postgres": 94,
}


class Console:
    """Writes lines from a thread of its own, and drops them rather than wait.

    A terminal that stopped reading (`make run | less`, Ctrl-S) must not stop the servers behind it.
    """

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._is_coloured = terminal.isatty() and "NO_COLOR" not in os.environ
        self._lines: Queue[str | None] = Queue(QUEUE_LINES)
        self._dropped = 0
        self._writer = Thread(target=self._write, name="console", daemon=True)
        self._writer.start()

    def say(self, text: str) -> None:
        """Say something of our own, of one line or several."""
        for line in text.splitlines():
            self.line("meterbook", line)

    def line(self, name: str, text: str) -> None:
        mark = f"{time.strftime('%H:%M:%S')} {name:<{NAME_WIDTH}} |"
        if self._is_coloured:
            mark = f"\x1b[{COLOURS.get(name, 37)}m{mark}\x1b[0m"
        try:
            if self._dropped:
                self._lines.put_nowait(f"… {self._dropped} lines dropped …")
                self._dropped = 0
            self._lines.put_nowait(f"{mark} {text}")
        except Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is left, if the terminal takes it within a second."""
        try:
            self._lines.put(None, timeout=1)
        except Full:
            return
        self._writer.join(1)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._terminal.write(line + "\n")
                if self._lines.empty():
                    self._terminal.flush()
            except OSError:  # nobody reads any more; keep emptying the queue
                continue
