"""The API of the crossing log."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.base import CallerView
from accounts.domain import Scope
from alerts import queries
from alerts.api import serializers as shapes
from alerts.payloads import crossing_json
from alerts.queries.emails import last_offset


class AlertListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ}
    queries = {"GET": shapes.AlertListQuery}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="list_alerts", parameters=[shapes.AlertListQuery], responses=shapes.AlertPage)
    def get(self, request: Request) -> Response:
        since, limit = self.query["since"], self.query["limit"]
        # Before the alerts: what is in the log by then, they show.
        end = last_offset(organization_id=self.caller.organization.pk)
        crossings = queries.list_crossings(
            organization=self.caller.organization,
            since=since,
            customers=self.query.get("customer", ()),
            metrics=self.query.get("metric", ()),
            customer_id=self.caller.customer_id,
            metric_codes=self.caller.metric_codes,
        )[:limit]
        data = [crossing_json(crossing) for crossing in crossings]
        following = data[-1]["offset"] if data else str(since)
        return Response({"data": data, "next_offset": following, "last_offset": str(end)})
