"""`meterbook login`."""

from __future__ import annotations

import sys

import click

from meterbook.cli.settings import Settings, open_client, save_settings
from meterbook.errors import AuthenticationError, PermissionRefusedError


@click.command()
@click.option("--url", envvar="METERBOOK_URL", prompt="Server", help="Address of the server.")
@click.option("--api-key", envvar="METERBOOK_API_KEY", help="Asked for, or read from the input, when not given.")
def login(url: str, api_key: str | None) -> None:
    """Check an API key and store it with the server's address, readable by you alone."""
    settings = Settings(url.rstrip("/"), (api_key or _ask_for_key()).strip())
    with open_client(settings) as client:
        try:
            client.metrics.list()
        except PermissionRefusedError:
            pass  # a good key that may only send events
        except AuthenticationError as error:
            raise click.UsageError(f"The server refused the key: {error.message}") from None
    click.echo(f"Signed in to {settings.url}; stored in {save_settings(settings)}.")


def _ask_for_key() -> str:
    """Read the key without showing it; from a pipe, its first line."""
    if sys.stdin.isatty():
        return str(click.prompt("API key", hide_input=True))
    return sys.stdin.readline()
