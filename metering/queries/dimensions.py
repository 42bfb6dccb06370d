"""Reads of what dimensions hold: which values occurred. Counts nothing."""

from accounts.models import Organization
from metering.models import Metric, Series


def list_dimension_values(
    *,
    organization: Organization,
    metric: Metric,
    key: str,
    limit: int,
    customer_id: int | None = None,
    containing: str = "",
) -> list[str]:
    """Return values of one dimension that ever occurred, in order, at most `limit`. One query.

    Read from the series that hold the rollups, so a value never seen before is here with the first rollup after it.
    """
    place = [dimension["key"] for dimension in metric.dimensions].index(key)
    series = Series.objects.for_organization(organization).filter(metric=metric, dimensions__isnull=False)
    if customer_id is not None:
        series = series.filter(customer_id=customer_id)
    value = f"dimensions__{place}"
    if containing:
        series = series.filter(**{f"{value}__icontains": containing})
    values = series.filter(**{f"{value}__isnull": False}).order_by(value).values_list(value, flat=True)
    return list(values.distinct()[:limit])
