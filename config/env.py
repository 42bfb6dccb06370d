"""Typed readers of environment variables; the only module that reads `os.environ` for settings.

Every reader fails loudly with the variable's name. Values that the running supervisor chose (the
embedded servers' addresses, the generated secret) are read from `<data dir>/run/services.env`, so
that `manage.py` works in a second terminal beside `make run`.
"""

import os
from functools import cache
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent


class MisconfiguredVariable(Exception):
    """An environment variable is missing or has an unusable value."""


def data_dir() -> Path:
    """Return the directory that holds the embedded servers' data (`METERBOOK_DATA_DIR`, default `var/`)."""
    return Path(os.environ.get("METERBOOK_DATA_DIR") or BASE_DIR / "var").resolve()


@cache
def _running_services() -> dict[str, str]:
    path = data_dir() / "run" / "services.env"
    if not path.exists():
        return {}
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _lookup(name: str) -> str | None:
    return os.environ.get(name) or _running_services().get(name)


def text(name: str, default: str | None = None) -> str:
    value = _lookup(name)
    if value is not None:
        return value
    if default is None:
        raise MisconfiguredVariable(f"{name} is not set. Start the services with `make run`, or set {name}.")
    return default


def integer(name: str, default: int) -> int:
    value = _lookup(name)
    if value is None:
        return default
    try:
        return int(value)
    except ValueError:
        raise MisconfiguredVariable(f"{name} must be a whole number, not {value!r}.") from None


def boolean(name: str, default: bool) -> bool:
    value = _lookup(name)
    if value is None:
        return default
    if value.lower() in {"1", "true", "yes", "on"}:
        return True
    if value.lower() in {"0", "false", "no", "off"}:
        return False
    raise MisconfiguredVariable(f"{name} must be 1 or 0, not {value!r}.")


def names(name: str, default: str = "") -> list[str]:
    return [part.strip() for part in text(name, default).split(",") if part.strip()]


def integers(name: str) -> tuple[int, ...]:
    """Read whole numbers, by comma."""
    try:
        return tuple(int(part) for part in names(name))
    except ValueError:
        raise MisconfiguredVariable(f"{name} must be whole numbers, separated by commas.") from None
