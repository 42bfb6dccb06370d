"""`meterbook events`."""

from __future__ import annotations

from datetime import datetime
from itertools import islice

import click

from meterbook.cli.options import pair, time
from meterbook.cli.output import format_options, json_line, print_rows, table_cell
from meterbook.cli.settings import open_client
from meterbook.events import StoredEvent

COLUMNS = ["timestamp", "customer", "type", "value", "properties", "idempotency_key"]


@click.group()
def events() -> None:
    """Look at stored events, and take them back."""


@events.command("list")
@click.option("--customer", "-c", help="Of one customer.")
@click.option("--metric", "-m", help="Of one metric.")
@click.option("--from", "start", type=time, help="Start of the range, which belongs to it.")
@click.option("--to", "end", type=time, help="End of the range, which does not.")
@click.option("--property", "properties", type=pair, multiple=True, help="name=value; all must match.")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@format_options
def list_events(
    customer: str | None,
    metric: str | None,
    start: datetime | None,
    end: datetime | None,
    properties: tuple[tuple[str, str], ...],
    limit: int,
    style: str | None,
) -> None:
    """List stored events, newest first."""
    with open_client() as client:
        found = client.list_events(
            customer=customer,
            metric=metric,
            start=start,
            end=end,
            properties=dict(properties),
            page_size=min(limit, 1000),
        )
        print_rows([_row(event) for event in islice(found, limit)], COLUMNS, style)


@events.command()
@click.option("--customer", "-c", "customers", multiple=True, help="Of this customer; repeatable.")
@click.option("--metric", "-m", "metrics", multiple=True, help="Of this metric; repeatable.")
@click.option("--type", "-t", "types", multiple=True, help="Of this type; repeatable.")
@click.option("--json", "is_json", is_flag=True, help="Print NDJSON.")
def tail(customers: tuple[str, ...], metrics: tuple[str, ...], types: tuple[str, ...], is_json: bool) -> None:
    """Show events as they arrive, until interrupted."""
    with open_client() as client:
        for event in client.events_tail(customer=list(customers), metric=list(metrics), type=list(types)):
            click.echo(json_line(event.body) if is_json else "  ".join(_line(event)))


@events.command()
@click.argument("idempotency_key")
@click.option("--reason", "-r", required=True, help="Why; kept with the event.")
def void(idempotency_key: str, reason: str) -> None:
    """Take the event IDEMPOTENCY_KEY back: it no longer counts."""
    with open_client() as client:
        client.void(idempotency_key, reason=reason)
    click.echo(f"Voided {idempotency_key}.")


def _line(event: StoredEvent) -> list[str]:
    row = _row(event)
    return [table_cell(row[column]) for column in COLUMNS]


def _row(event: StoredEvent) -> dict[str, object]:
    properties = " ".join(f"{name}={value}" for name, value in event.properties.items())
    return {
        "timestamp": event.timestamp,
        "customer": event.customer,
        "type": event.type,
        "value": event.value,
        "properties": properties,
        "idempotency_key": event.idempotency_key,
    }
