"""What the apps above the core keep of a customer: handed out with the rest of their data, and let go with their name.

An app that has such rows names a module in `settings.CUSTOMER_TRACES`; it has the functions of `CustomerTraces`. Not
needed for rows that only refer to the customer or mention the name: those `metering.queries.mentions` finds by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from importlib import import_module
from typing import Protocol, cast

from django.conf import settings
from django.db import models

from accounts.models import Customer, Organization


class CustomerTraces(Protocol):
    def iterate_rows(self, *, organization: Organization, customer: Customer) -> Iterator[models.Model]:
        """Yield rows on the customer that neither refer to them nor mention their name."""

    def let_go(self, *, organization: Organization, customer: Customer, by: str, now: datetime) -> None:
        """Delete what is theirs alone, or make it nobody's; `by` is the name that will stand in place of theirs.

        Called in the transaction in which the erasure begins, alone at the ingest fence, so it has to be quick. The
        customer still has the name and the raw events.
        """


def list_traces() -> list[CustomerTraces]:
    return [cast(CustomerTraces, import_module(path)) for path in settings.CUSTOMER_TRACES]
