"""`python -m benchmarks.footprint [--data-dir DIR] [--seconds 20]`: memory and CPU of a running installation.

Memory is proportional (PSS): what several processes share is split among them, so the sum is what the machine would
get back. PostgreSQL's shared memory, nearly all of it buffer cache, stands in a column of its own. Reading another
account's maps needs root where PostgreSQL runs as `pgserver`. Linux only.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from config import env

NAMES = (
    ("config.runner", "supervisor"),
    ("--interface wsgi", "web"),
    ("--interface asgi", "stream"),
    ("--hostname worker@", "worker"),
    ("--hostname slow-worker@", "slow worker"),
    ("config.worker beat", "beat"),
    ("redis-server", "redis"),
    ("postgres", "postgres"),
)
MEMORY_LIMIT_MIB = 1200


@dataclass(frozen=True, slots=True)
class Footprint:
    """One process: MiB of its own, MiB of PostgreSQL's shared memory, and the share of one CPU in percent."""

    name: str
    pid: int
    memory_mib: float
    shared_mib: float
    cpu_percent: float


def measure(data_dir: Path, seconds: float) -> list[Footprint]:
    supervisor = psutil.Process(int((data_dir / "run" / "supervisor.lock").read_text()))
    processes = [supervisor, *supervisor.children(recursive=True)]
    before = {process.pid: _cpu_seconds(process) for process in processes}
    time.sleep(seconds)
    return [
        _footprint(process, (_cpu_seconds(process) - before[process.pid]) / seconds * 100)
        for process in processes
        if process.is_running()
    ]


def _footprint(process: psutil.Process, cpu_percent: float) -> Footprint:
    name = _name(" ".join(process.cmdline()))
    sizes = _proportional_sizes(process.pid)
    shared = sizes["Pss_Shmem"] if name == "postgres" else 0
    return Footprint(name, process.pid, (sizes["Pss"] - shared) / 1024, shared / 1024, cpu_percent)


def _proportional_sizes(pid: int) -> dict[str, int]:
    """Return the fields of smaps_rollup in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    pairs = (line.split(":") for line in lines)
    return {name: int(value.split()[0]) for name, value in pairs}


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _name(command: str) -> str:
    return next((name for part, name in NAMES if part in command), command[:20])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=env.data_dir())
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    footprints = sorted(measure(arguments.data_dir, arguments.seconds), key=lambda footprint: footprint.name)
    print(f"{'process':<12}{'pid':>8}{'MiB':>9}{'shared':>9}{'CPU %':>8}")
    for one in footprints:
        print(f"{one.name:<12}{one.pid:>8}{one.memory_mib:>9.1f}{one.shared_mib:>9.1f}{one.cpu_percent:>8.2f}")
    memory = sum(one.memory_mib for one in footprints)
    shared = sum(one.shared_mib for one in footprints)
    cpu = sum(one.cpu_percent for one in footprints)
    print(f"{'together':<12}{len(footprints):>8}{memory:>9.1f}{shared:>9.1f}{cpu:>8.2f}")
    if memory > MEMORY_LIMIT_MIB:
        sys.exit(f"more than {MEMORY_LIMIT_MIB} MiB")


if __name__ == "__main__":
    main()
