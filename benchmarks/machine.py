"""On what it was measured: the machine, the versions, and how durable a commit was."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from django.db import connection

from benchmarks.report import Figure
from config.embedded import memory

DURABILITY = ("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")
TUNING = ("shared_buffers", "work_mem", "max_wal_size", "wal_compression")


def describe_machine(data_dir: Path) -> dict[str, Figure]:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "memory": f"{memory.usable_memory_bytes() / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(data_dir),
        "Python": platform.python_version(),
        "PostgreSQL": _settings(("server_version",))["server_version"],
        **_settings(TUNING),
    }


def describe_durability() -> dict[str, str]:
    return _settings(DURABILITY)


def _settings(names: tuple[str, ...]) -> dict[str, str]:
    with connection.cursor() as cursor:
        values = {}
        for name in names:
            cursor.execute("SELECT current_setting(%s)", [name])
            values[name] = cursor.fetchone()[0]
        return values


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", information.read_text()) if information.exists() else None
    return found[1] if found else platform.machine()


def _file_system(path: Path) -> str:
    try:
        answer = subprocess.run(["df", "--output=fstype", str(path)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.split()[-1]
