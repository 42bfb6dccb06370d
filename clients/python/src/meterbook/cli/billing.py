"""`meterbook billing`: what of the usage is billed."""

from __future__ import annotations

from typing import Any

import click

from meterbook.cli.output import format_options, print_answer, print_rows
from meterbook.cli.selection import month, name
from meterbook.cli.settings import open_client


@click.group()
def billing() -> None:
    """See what is billable, and report it to the payment provider."""


@billing.command()
@click.option("--user", type=name, required=True, help="Whose usage.")
@click.option("--period", "-p", type=month, help="current (default), last, or a month like 2026-11.")
@format_options
def usage(user: str, period: str | None, style: str | None) -> None:
    """Show what of a user's usage the plan includes, and what the rest costs."""
    with open_client() as client:
        answer = client.billing.usage(user, period=period)
    if style == "json":
        print_answer(answer)
        return
    print_rows([{"": fact, "value": value} for fact, value in answer.items()], ["", "value"], style)


@billing.command("report-usage")
@click.option("--period", "-p", type=month, help="current, last, or a month like 2026-11; default: all.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
def report_usage(period: str | None, dry_run: bool) -> None:
    """Report the usage of a month to the payment provider. Running it again reports nothing twice.

    Ends with 1 where it was stopped, or could not tell the usage of a period. What the provider rejected is in
    `states`.
    """
    with open_client() as client:
        answer = client.billing.report_usage(period=period, dry_run=dry_run)
    print_answer(answer)
    problems = _list_problems(answer)
    if problems:
        raise click.ClickException(" ".join(problems))


def _list_problems(answer: dict[str, Any]) -> list[str]:
    """Say what kept a run from reporting everything."""
    problems = []
    if answer["stopped_by"]:
        problems.append(f"Not everything was sent: {answer['stopped_by']}")
    if failures := answer["failures"]:
        first = failures[0]
        problems.append(
            f"Of {len(failures)} periods the usage cannot be reported; "
            f"the first is {first['period']} of {first['customer']}: {first['message']}"
        )
    return problems
