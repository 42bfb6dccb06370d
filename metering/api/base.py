"""What the metering views share: parameters with free names, and the customer and metric that a caller may see."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from django.http import QueryDict
from rest_framework.request import Request

from accounts.access import Caller
from accounts.api.base import CallerView
from accounts.models import Customer
from accounts.sql.known_customer import find_customer
from common.api import StrictSerializer, read_query
from common.errors import NotFound
from metering import queries
from metering.models import Metric


class FreeNamesView(CallerView):
    """A view that takes parameters like `filter[region]=us` beside the fixed ones."""

    # Its first group is the free name.
    free_name: ClassVar[re.Pattern[str]]
    free: dict[str, tuple[str, ...]]

    def read_query(self, request: Request, serializer_class: type[StrictSerializer]) -> dict[str, Any]:
        fixed = QueryDict(mutable=True)
        self.free = {}
        for name, values in request.query_params.lists():
            match = self.free_name.match(name)
            if match:
                self.free[match[1]] = tuple(values)
            else:
                fixed.setlist(name, values)
        return read_query(fixed, serializer_class)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a read is about: one metric, of one customer or (None) of all."""

    metric: Metric
    customer: Customer | None

    @property
    def customer_id(self) -> int | None:
        return self.customer.pk if self.customer else None


def get_subject(caller: Caller, *, metric: str, customer: str | None) -> Subject:
    """Return the metric and customer. Raises `NotFound` for absent, foreign and, with a bound key, other ones alike."""
    _require_visible(caller, metric)
    known = queries.get_known_metric(organization=caller.organization, code=metric)
    return Subject(known, get_visible_customer(caller, customer))


def get_visible_metric(caller: Caller, code: str) -> Metric:
    _require_visible(caller, code)
    return queries.get_metric(organization=caller.organization, code=code)


def _require_visible(caller: Caller, code: str) -> None:
    if caller.metric_codes and code not in caller.metric_codes:
        raise NotFound("There is no such metric.")


def get_visible_customer(caller: Caller, external_id: str | None) -> Customer | None:
    """Return the named customer; without a name all (None), or the one that the key is bound to."""
    if external_id is None and caller.customer_id is None:
        return None
    return _get_customer(caller, external_id)


def get_named_customer(caller: Caller, external_id: str) -> Customer:
    """Return the named customer. Raises `NotFound`, also for any other than the one that the key is bound to."""
    return _get_customer(caller, external_id)


def _get_customer(caller: Caller, external_id: str | None) -> Customer:
    customer = None
    if external_id is None or "\x00" not in external_id:
        customer = find_customer(
            organization=caller.organization, external_id=external_id, customer_id=caller.customer_id
        )
    if customer is None:
        raise NotFound("There is no such customer.")
    return customer
