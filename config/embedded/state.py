"""The small files in `<data dir>/run` by which processes of one installation find each other.

`services.env` holds the addresses and the generated secret; `config.env` reads it. All of them are for the
owner's eyes alone.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

SERVICES_FILE = "services.env"
SECRET_FILE = "secret_key"


def create_data_dir(data_dir: Path) -> None:
    """Create the data directory with its `run` directory.

    Started by root, the data directory may be passed through, though not listed, by the account that runs PostgreSQL.
    """
    if not data_dir.exists():
        data_dir.mkdir(parents=True)
        data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
    run_dir = data_dir / "run"
    run_dir.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step with one that only its owner may read."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    scratch.replace(path)


def ensure_secret_key(data_dir: Path) -> str:
    """Return this installation's secret key, made once: sessions and signed values outlive a restart."""
    path = data_dir / "run" / SECRET_FILE
    if not path.exists():
        write_private(path, secrets.token_urlsafe(48))
    return path.read_text().strip()


def write_services(data_dir: Path, values: Mapping[str, str]) -> None:
    lines = (f"{name}={value}\n" for name, value in values.items())
    write_private(data_dir / "run" / SERVICES_FILE, "".join(lines))
