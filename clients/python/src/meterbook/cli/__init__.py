"""The command line `meterbook`: the verbs of the client for people and scripts.

Bad input ends with status 2, other failures with 1, each with one line on the standard error stream.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

import meterbook
from meterbook.cli.alerts import alerts, thresholds
from meterbook.cli.analytics import analytics
from meterbook.cli.billing import billing
from meterbook.cli.events import events
from meterbook.cli.ingest import ingest
from meterbook.cli.invoices import invoices
from meterbook.cli.login import login
from meterbook.cli.logs import logs
from meterbook.cli.metrics import metrics
from meterbook.cli.server_settings import settings
from meterbook.cli.usage import usage
from meterbook.cli.users import users
from meterbook.errors import ConflictError, MeterbookError, NotFoundError, ValidationError

BAD_INPUT, FAILURE, INTERRUPTED = 2, 1, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(meterbook.__version__, message="meterbook %(version)s")
def cli() -> None:
    """Meter usage on a Meterbook server: define metrics, send events, ask for usage.

    `meterbook login` stores the server's address and an API key; METERBOOK_URL and METERBOOK_API_KEY override them.
    """


COMMANDS = (
    *(login, metrics, ingest, usage, events, alerts, thresholds, analytics, users),
    *(billing, invoices, settings, logs),
)
for command in COMMANDS:
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        status = cli.main(args=arguments, prog_name="meterbook", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as no_arguments:
        no_arguments.show()
        return BAD_INPUT
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code if error.exit_code == FAILURE else BAD_INPUT)
    except (ValidationError, NotFoundError, ConflictError) as error:
        return _fail(_explain(error), BAD_INPUT)
    except MeterbookError as error:
        return _fail(_explain(error), FAILURE)
    except BrokenPipeError:
        # The reader (`head`, a pager) has gone. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    return status if isinstance(status, int) else 0


def _explain(error: MeterbookError) -> str:
    fields = [f"{field.field}: {field.message}" for field in getattr(error, "errors", ()) if field.field]
    return "; ".join([error.message, *(text for text in fields[:3] if text not in error.message)])


def _fail(message: str, status: int) -> int:
    click.echo(f"meterbook: {' '.join(message.split())}", err=True)
    return status
