"""The terminal: each process's lines with time and name before them, in colour where somebody watches."""

import os
import sys
import time
from queue import Full, Queue
from threading import Thread

NAME_WIDTH = 9
QUEUE_LINES = 10_000
COLOURS = {"meterbook": 1, "web": 36, "stream": 34, "worker": 33, "beat": 35, "demo": 32, "redis": 31, "postgres": 94}


class Console:
    """Writes lines from a thread of its own, and drops them rather than wait.

    A terminal that stopped reading (`make run | less`, Ctrl-S) must not stop the servers behind it.
    """

    def __init__(self) -> None:
        self._is_coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._lines: Queue[str | None] = Queue(QUEUE_LINES)
        self._dropped = 0
        self._writer = Thread(target=self._write, name="console", daemon=True)
        self._writer.start()

    def say(self, text: str) -> None:
        self.line("meterbook", text)

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
                sys.stdout.write(line + "\n")
                if self._lines.empty():
                    sys.stdout.flush()
            except OSError:  # nobody reads any more; keep emptying the queue
                continue
