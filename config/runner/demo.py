"""`python -m config.runner.demo`: load the demo through the running server, once per data directory.

The command `load_demo` writes the demo's sign-in and API key to a private file; its presence means that the demo is
complete. A load that was interrupted starts again: its events carry their keys, so nothing is counted twice.
"""

import argparse
import os
import sys
from pathlib import Path

import django
from django.core.management import CommandError, call_command, get_commands

from config import env

COMMAND = "load_demo"
BILLING_COMMAND = "bill_demo"


def credentials_path(data_dir: Path) -> Path:
    return data_dir / "run" / "demo.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m config.runner.demo", description=__doc__)
    parser.add_argument("--url", required=True, help="where the server answers")
    arguments = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
    django.setup()
    if COMMAND not in get_commands():
        print("this version has no demo")  # noqa: T201
        return
    try:
        call_command(COMMAND, url=arguments.url, output=credentials_path(env.data_dir()))
        call_command(BILLING_COMMAND)
    except CommandError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
