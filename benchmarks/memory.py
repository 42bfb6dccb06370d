"""How much memory each kind of process took at its highest, shared pages counted fairly.

PSS (proportional set size) divides a shared page by the number of its users, so that sums are true. PostgreSQL's
buffer cache is shared memory and a setting, not a need: it is shown apart.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from pathlib import Path

import psutil

from benchmarks.installation import Installation
from benchmarks.report import Figure, Measurement

SAMPLE_SECONDS = 4.0
MEBIBYTE = 1024  # in the kernel's kB
_FIELD = re.compile(r"^(Pss|Pss_Shmem|VmHWM):\s+(\d+) kB$", re.MULTILINE)


class MemoryWatch(threading.Thread):
    """Looks every few seconds at all processes of an installation, until stopped. Sees nothing but on Linux."""

    def __init__(self, installation: Installation) -> None:
        super().__init__(daemon=True)
        self._processes = installation.processes
        self._is_over = threading.Event()
        # By kind of process: its highest own memory (kB), and the highest of each single process ever.
        self._own_peak: dict[str, int] = defaultdict(int)
        self._shared_peak: dict[str, int] = defaultdict(int)
        self._single_peaks: dict[str, dict[int, int]] = defaultdict(dict)

    def run(self) -> None:
        while not self._is_over.wait(SAMPLE_SECONDS):
            for name, root in list(self._processes.items()):
                self._look(name, root.pid)

    def stop(self) -> list[Measurement]:
        """Return one line per kind of process."""
        self._is_over.set()
        self.join()
        return [Measurement("memory", name, self._figures(name)) for name in sorted(self._own_peak)]

    def _look(self, name: str, root: int) -> None:
        fields = [(pid, _read_fields(pid)) for pid in _list_tree(root)]
        pss = sum(found.get("Pss", 0) for _, found in fields)
        shared = sum(found.get("Pss_Shmem", 0) for _, found in fields)
        self._own_peak[name] = max(self._own_peak[name], pss - shared)
        self._shared_peak[name] = max(self._shared_peak[name], shared)
        for pid, found in fields:
            if "VmHWM" in found:
                self._single_peaks[name][pid] = found["VmHWM"]

    def _figures(self, name: str) -> dict[str, Figure]:
        peaks = self._single_peaks[name].values()
        return {
            "peak PSS MiB": round(self._own_peak[name] / MEBIBYTE),
            "shared memory MiB": round(self._shared_peak[name] / MEBIBYTE),
            "largest process' peak RSS MiB": round(max(peaks, default=0) / MEBIBYTE),
        }


def _list_tree(root: int) -> list[int]:
    try:
        process = psutil.Process(root)
        return [root, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _read_fields(pid: int) -> dict[str, int]:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text() + Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return {}
    return {name: int(kilobytes) for name, kilobytes in _FIELD.findall(text)}
