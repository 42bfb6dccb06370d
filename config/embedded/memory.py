"""How much memory and disk this machine, or the container we are in, has for PostgreSQL to use."""

import os
import shutil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEBIBYTE = 1024 * 1024


def usable_memory_bytes() -> int:
    """Return the machine's memory, or the control group's limit where that is smaller."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([installed, *_control_group_limits()])


def free_disk_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


def shared_memory_bytes() -> int:
    """Return the size of /dev/shm: containers often have 64 MB only, too little for parallel queries."""
    devices = Path("/dev/shm")
    return shutil.disk_usage(devices).total if devices.is_dir() else 0


def _control_group_limits() -> list[int]:
    """Return the limits of our control group and of all above it (version 2: memory.max, version 1 else)."""
    limits = []
    for group in _control_groups():
        for directory in (group, *group.parents):
            limits += [limit for name in ("memory.max", "memory.limit_in_bytes") if (limit := _read(directory / name))]
            if directory == CGROUPS:
                break
    return limits


def _control_groups() -> list[Path]:
    """Return our memory control group's directories, both as named and as mounted inside a container."""
    membership = Path("/proc/self/cgroup")
    if not membership.exists():
        return []
    groups = []
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            groups += [CGROUPS / path.lstrip("/"), CGROUPS]
        elif "memory" in controllers.split(","):
            groups += [CGROUPS / "memory" / path.lstrip("/"), CGROUPS / "memory"]
    return groups


def _read(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
