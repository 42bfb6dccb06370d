"""What the operating system offers for looking after child processes: death with the parent, another account.

Linux only for death with the parent (`PR_SET_PDEATHSIG`); elsewhere the next start stops what was left over.
"""

import ctypes
import multiprocessing
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import IO

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Account:
    """A system account to run a process as."""

    name: str
    uid: int
    gid: int

    @classmethod
    def own(cls) -> "Account":
        entry = pwd.getpwuid(os.geteuid())
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @property
    def is_own(self) -> bool:
        return self.uid == os.geteuid()


class AccountUnavailable(Exception):
    """The system account that a server needs cannot be created or used."""


def die_with_parent(signal: Signals) -> None:
    """Ask the kernel to send this process `signal` when the thread that started it ends."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.value)


def die_with_server() -> None:
    """Called in a server's worker process: end with the server process that forked it, even if that was killed."""
    server = multiprocessing.parent_process()
    if server is not None:
        die_with_parent(Signals.SIGKILL)
        if os.getppid() != server.pid:  # it died before we could ask
            os._exit(1)


def spawn(
    command: Sequence[str | Path],
    *,
    parent_death_signal: Signals | None,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | int | None = None,
    directory: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, so that a terminal's Ctrl-C reaches us alone and we choose the order.

    Call it from a thread that lives as long as the program: the kernel reports the death of the starting thread.
    """
    other = account is not None and not account.is_own
    return subprocess.Popen(
        [os.fspath(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        env=environment,
        cwd=directory,
        user=account.uid if other and account else None,
        group=account.gid if other and account else None,
        extra_groups=[] if other else None,
        process_group=0,
        preexec_fn=None if parent_death_signal is None else _before_exec(parent_death_signal),
    )


def _before_exec(signal: Signals) -> Callable[[], None]:
    parent = os.getpid()

    def prepare() -> None:
        # After the change of account, which would clear the setting.
        die_with_parent(signal)
        if os.getppid() != parent:  # the parent died between fork and here
            os._exit(1)

    return prepare


def ensure_account(name: str) -> Account:
    """Return the system account `name`, creating it if it is missing (root only)."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        _create_account(name)
        entry = pwd.getpwnam(name)
    return Account(name, entry.pw_uid, entry.pw_gid)


def _create_account(name: str) -> None:
    if shutil.which("useradd"):
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
    else:
        command = ["adduser", "-S", "-D", "-H", "-s", "/sbin/nologin", name]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise AccountUnavailable(
            f"PostgreSQL refuses to run as root, and the system account {name!r} could not be created: "
            f"{reason.strip()}. Run as an ordinary user, or set DATABASE_URL."
        ) from error


def can_execute(path: Path, account: Account) -> bool:
    """Tell whether the account may enter the directory, or run the program, at `path`."""
    if account.is_own:
        return os.access(path, os.X_OK)
    test = shutil.which("test") or "/usr/bin/test"
    try:
        answer = subprocess.run([test, "-x", path], user=account.uid, group=account.gid, extra_groups=[], cwd="/")
    except (OSError, subprocess.SubprocessError) as error:
        raise AccountUnavailable(
            f"Cannot start programs as the system account {account.name!r}: {error}. "
            "Run as an ordinary user, or set DATABASE_URL."
        ) from error
    return answer.returncode == 0
