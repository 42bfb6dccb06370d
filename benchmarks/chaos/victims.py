"""What a round kills. Everything is found from the supervisor's process down, and killed by process id."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

from benchmarks.chaos.instance import Instance

Choice = Callable[[Instance, random.Random], psutil.Process | None]


def _child(*words: str) -> Choice:
    return lambda instance, chance: instance.find(*words)


def _process_of(*words: str, only: str = "") -> Choice:
    """Choose one of the processes that a server started, such as the one that is just storing a batch."""

    def choose(instance: Instance, chance: random.Random) -> psutil.Process | None:
        server = instance.find(*words)
        if server is None:
            return None
        processes = sorted(server.children(), key=lambda process: process.pid)
        fitting = [process for process in processes if only in _command(process)]
        return chance.choice(fitting) if fitting else None

    return choose


def _supervisor(instance: Instance, chance: random.Random) -> psutil.Process | None:
    return instance.tree()[0]


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


WEB, WORKER, REDIS, POSTGRES = ("granian", "wsgi"), ("celery", " worker@"), ("redis-server",), ("postgres", " -D ")
# The four that a round kills most often, and then parts of them, and all at once.
VICTIMS: dict[str, Choice] = {
    "web": _child(*WEB),
    "worker": _child(*WORKER),
    "postgres": _child(*POSTGRES),
    "redis": _child(*REDIS),
    "web process": _process_of(*WEB, only="spawn_main"),
    "postgres backend": _process_of(*POSTGRES, only="meterbook"),
    "everything": _supervisor,
}
MAIN = ("web", "worker", "postgres", "redis")


def choose_victims(rounds: int, chance: random.Random) -> list[str]:
    """Return a victim for each round: in every seven the four main ones and each of the others once, shuffled."""
    order: list[str] = []
    while len(order) < rounds:
        names = list(VICTIMS)
        chance.shuffle(names)
        order += names
    return order[:rounds]


def kill(instance: Instance, name: str, chance: random.Random) -> int | None:
    """Kill -9; return the process id, or None when it is down already or ended by itself a moment ago."""
    process = VICTIMS[name](instance, chance)
    if process is None:
        return None
    with suppress(psutil.NoSuchProcess):
        process.kill()
        return int(process.pid)
    return None


def restart_if_killed(instance: Instance, victims: Sequence[str], tree: Sequence[psutil.Process]) -> None:
    """Start the installation again when its supervisor was killed: nobody else would. `tree`: what ran before."""
    if "everything" not in victims:
        return
    assert instance.process is not None
    instance.process.wait()
    psutil.wait_procs(tree, timeout=60)  # its children end with it; the kernel tells them
    instance.start()
