"""One supervised process: started, listened to, started again when it dies, stopped politely and then firmly."""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from signal import Signals

from config.runner.console import Console

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
# A process that lived this long was well; its death is a new story.
WELL_AFTER_SECONDS = 60.0
LONGEST_LINE = 65_536


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one process is started and stopped. `start` gets the descriptor for the process's output."""

    name: str
    start: Callable[[int], "subprocess.Popen[bytes]"]
    stop_signal: Signals = signal.SIGTERM
    last_signal: Signals = signal.SIGKILL
    grace_seconds: float = 10.0
    # Lines that tell nothing to the person at the terminal.
    chatter: re.Pattern[str] | None = None


class Child:
    def __init__(self, recipe: Recipe, console: Console) -> None:
        self.recipe = recipe
        self.process: subprocess.Popen[bytes] | None = None
        self.death_count = 0
        self._console = console
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.recipe.name

    # --- running ---------------------------------------------------------------------------------

    def keep_running(self) -> None:
        """Start it now, and again whenever it ends, until `stop`."""
        self._keeper = asyncio.create_task(self._keep_running(), name=self.name)

    async def run_once(self) -> int:
        """Start it, and return its exit status."""
        await self._live_once()
        return self._status()

    async def _keep_running(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                await self._live_once()
                epitaph = self._epitaph()
            except OSError as error:  # no memory, no descriptors, no binary: that may pass, too
                epitaph = f"could not be started ({error})"
            if self._stopping.is_set():
                return
            self.death_count += 1
            if time.monotonic() - started > WELL_AFTER_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._console.say(f"{self.name} {epitaph}; starting it again in {pause:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _live_once(self) -> None:
        self._ended.clear()
        reading, writing = os.pipe()
        try:
            self.process = self.recipe.start(writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        listener = asyncio.create_task(self._listen(reading))
        await self._ended.wait()
        # Whatever it had started must not hold its port or its files when it starts again.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            await asyncio.wait_for(listener, 1)

    def notice_end(self) -> None:
        """Reap the process if it has ended. Called on every SIGCHLD."""
        if self.process is not None and self.process.poll() is not None:
            self._ended.set()

    def _status(self) -> int:
        assert self.process is not None
        assert self.process.returncode is not None
        return self.process.returncode

    def _epitaph(self) -> str:
        status = self._status()
        return f"was killed by {Signals(-status).name}" if status < 0 else f"ended with status {status}"

    async def _listen(self, descriptor: int) -> None:
        """Pass the process's lines on to the console until it closes its output."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=LONGEST_LINE)
        pipe = os.fdopen(descriptor, "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while line := await _read_line(reader):
                text = line.decode(errors="replace").rstrip()
                if text and not (self.recipe.chatter and self.recipe.chatter.search(text)):
                    self._console.line(self.name, text)
        finally:
            transport.close()

    # --- stopping --------------------------------------------------------------------------------

    async def stop(self, *, hurry: asyncio.Event) -> None:
        """Ask it to end, insist after its grace or as soon as `hurry` is set, and return when it is gone."""
        self._stopping.set()
        for stop_signal, patience in (
            (self.recipe.stop_signal, self.recipe.grace_seconds),
            (self.recipe.last_signal, 10.0),
            (signal.SIGKILL, 10.0),
        ):
            if self.process is None or self.process.poll() is not None:
                break
            with suppress(ProcessLookupError):
                self.process.send_signal(stop_signal)
            await _first_of(self._ended, hurry, seconds=patience)
            if not self._ended.is_set() and hurry.is_set():
                await asyncio.sleep(0.2)  # let the signal work before the next, firmer one
            elif not self._ended.is_set():
                self._console.say(f"{self.name} does not stop; insisting")
        if self._keeper is not None:
            await self._keeper


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    """Return the next line; a line too long for the buffer comes in pieces."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await reader.readexactly(max(1, error.consumed))


async def _first_of(*events: asyncio.Event, seconds: float) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
