"""What a search field of the explorer suggests while somebody types."""

from __future__ import annotations

from accounts.access import Caller
from accounts.models import Customer
from common.errors import NotFound
from metering.queries import get_metric
from metering.queries.dimensions import list_dimension_values
from metering.sql.usage import CUSTOMER

# As many as fit below a field.
MAX_SUGGESTIONS = 20
MAX_TYPED_CHARACTERS = 200


def list_suggestions(caller: Caller, *, metric_code: str, key: str, typed: str) -> list[str]:
    """Return a few known values that hold `typed`. Raises `NotFound` for an absent metric or dimension."""
    typed = typed[:MAX_TYPED_CHARACTERS]
    if key == CUSTOMER:
        customers = Customer.objects.for_organization(caller.organization).filter(external_id__icontains=typed)
        return list(customers.order_by("external_id").values_list("external_id", flat=True)[:MAX_SUGGESTIONS])
    metric = get_metric(organization=caller.organization, code=metric_code)
    if key not in {dimension["key"] for dimension in metric.dimensions}:
        raise NotFound("The metric has no such dimension.")
    return list_dimension_values(
        organization=caller.organization, metric=metric, key=key, limit=MAX_SUGGESTIONS, containing=typed
    )
