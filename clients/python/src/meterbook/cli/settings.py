"""Where the server's address and the key come from: the environment, else the file that `login` wrote."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import click

from meterbook.client import Client
from meterbook.wire import RetryPolicy, encode_json

# A person waits: give up after about two seconds instead of the library's eight.
PATIENCE = RetryPolicy(attempts=4)


@dataclass(frozen=True, slots=True)
class Settings:
    url: str
    api_key: str = field(repr=False)


def config_path() -> Path:
    """Return the file of the settings, below `XDG_CONFIG_HOME` (by default `~/.config`)."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "meterbook" / "config.toml"


def save_settings(settings: Settings) -> Path:
    """Write the settings so that only this user can read them, never half."""
    path = config_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A JSON string is a TOML basic string.
    lines = [f"{name} = {encode_json(value).decode()}" for name, value in _fields(settings).items()]
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    temporary.replace(path)
    return path


def load_settings() -> Settings:
    stored = _read_config(config_path())
    url = os.environ.get("METERBOOK_URL") or stored.get("url")
    api_key = os.environ.get("METERBOOK_API_KEY") or stored.get("api_key")
    if not url or not api_key:
        raise click.UsageError("Run `meterbook login` first, or set METERBOOK_URL and METERBOOK_API_KEY.")
    return Settings(url, api_key)


def open_client(settings: Settings | None = None) -> Client:
    settings = settings or load_settings()
    try:
        return Client(settings.url, settings.api_key, retry=PATIENCE)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _read_config(path: Path) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in tomllib.loads(path.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from None


def _fields(settings: Settings) -> dict[str, str]:
    return {"url": settings.url, "api_key": settings.api_key}
