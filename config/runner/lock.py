"""One supervisor per data directory."""

import fcntl
import os
from pathlib import Path
from types import TracebackType

from config.runner.plan import CannotStart


class DataDirLock:
    """Hold the data directory's lock, with our process id in it; the kernel lets go of it when we die, however we die.

    Entering raises `CannotStart` if another supervisor holds it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._file = (data_dir / "run" / "supervisor.lock").open("a+")

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            raise CannotStart(
                f"Meterbook already runs on {self._data_dir} (process {self._file.read().strip()}). "
                "Stop it, or start a second one with another METERBOOK_DATA_DIR and another PORT."
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
