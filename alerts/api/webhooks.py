"""The API of webhook endpoints, of what was delivered to them, and of a member's own alert mail."""

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED, HTTP_202_ACCEPTED, HTTP_204_NO_CONTENT

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from accounts.models import Membership
from alerts.access import get_endpoint_for, require_for_types
from alerts.api import webhook_serializers as shapes
from alerts.domain import DigestFrequency
from alerts.models import Delivery, WebhookEndpoint
from alerts.queries import emails as email_queries
from alerts.queries import webhooks as queries
from alerts.services import emails, webhooks
from common.api import ListQuery, take_page
from common.errors import PermissionRefused


class EndpointView(CallerView):
    """What the views of one endpoint share."""

    def _endpoint(self, endpoint_id: int) -> WebhookEndpoint:
        return get_endpoint_for(self.caller, endpoint_id)

    def _delivery(self, endpoint_id: int, delivery_id: int) -> Delivery:
        return queries.get_delivery(endpoint=self._endpoint(endpoint_id), delivery_id=delivery_id)


class WebhookEndpointListView(CallerView):
    scopes = {"GET": Scope.METRICS_WRITE, "POST": Scope.METRICS_WRITE}
    queries = {"GET": ListQuery}

    @extend_schema(
        operation_id="list_webhook_endpoints", parameters=[ListQuery], responses=page_of(shapes.EndpointRead)
    )
    def get(self, request: Request) -> Response:
        endpoints = queries.list_endpoints(organization=self.caller.organization)
        return take_page(endpoints, **self.query).response(shapes.EndpointRead)

    @extend_schema(
        operation_id="create_webhook_endpoint",
        request=shapes.EndpointWrite,
        responses={201: shapes.IssuedEndpointRead},
    )
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.EndpointWrite)
        require_for_types(self.caller, body.get("message_types", ()))
        issued = webhooks.create_endpoint(
            organization=self.caller.organization,
            definition=webhooks.EndpointDefinition(**shapes.EndpointWrite.changes_of(body)),
            actor=self.caller.actor,
        )
        answer = shapes.endpoint_json(issued.endpoint) | {"secret": issued.secret}
        return Response(answer, status=HTTP_201_CREATED, headers={"Cache-Control": "no-store"})


class WebhookEndpointView(EndpointView):
    scopes = {"GET": Scope.METRICS_WRITE, "PATCH": Scope.METRICS_WRITE, "DELETE": Scope.METRICS_WRITE}

    @extend_schema(operation_id="get_webhook_endpoint", responses=shapes.EndpointRead)
    def get(self, request: Request, endpoint_id: int) -> Response:
        return Response(shapes.endpoint_json(self._endpoint(endpoint_id)))

    @extend_schema(operation_id="update_webhook_endpoint", request=shapes.EndpointChange, responses=shapes.EndpointRead)
    def patch(self, request: Request, endpoint_id: int) -> Response:
        endpoint = self._endpoint(endpoint_id)
        changes = shapes.EndpointChange.changes_of(self.read_body(shapes.EndpointChange, is_partial=True))
        require_for_types(self.caller, changes.get("message_types", ()))
        changed = webhooks.update_endpoint(
            endpoint=endpoint,
            changes=changes,
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response(shapes.endpoint_json(changed))

    @extend_schema(operation_id="delete_webhook_endpoint", responses={204: None})
    def delete(self, request: Request, endpoint_id: int) -> Response:
        webhooks.delete_endpoint(endpoint=self._endpoint(endpoint_id), actor=self.caller.actor, now=timezone.now())
        return Response(status=HTTP_204_NO_CONTENT)


class RotateWebhookSecretView(EndpointView):
    scopes = {"POST": Scope.METRICS_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="rotate_webhook_secret", request=None, responses=shapes.RotatedSecretRead)
    def post(self, request: Request, endpoint_id: int) -> Response:
        rotated = webhooks.rotate_secret(
            endpoint=self._endpoint(endpoint_id), actor=self.caller.actor, now=timezone.now()
        )
        answer = {"secret": rotated.secret, "previous_secret_until": rotated.previous_secret_until}
        return Response(answer, headers={"Cache-Control": "no-store"})


class TestWebhookView(EndpointView):
    scopes = {"POST": Scope.METRICS_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="test_webhook_endpoint", request=None, responses={202: shapes.DeliveryRead})
    def post(self, request: Request, endpoint_id: int) -> Response:
        delivery = webhooks.send_test(endpoint=self._endpoint(endpoint_id), now=timezone.now())
        return Response(shapes.delivery_json(delivery), status=HTTP_202_ACCEPTED)


class DeliveryListView(EndpointView):
    scopes = {"GET": Scope.METRICS_WRITE}
    queries = {"GET": shapes.DeliveryListQuery}

    @extend_schema(
        operation_id="list_webhook_deliveries",
        parameters=[shapes.DeliveryListQuery],
        responses=page_of(shapes.DeliveryRead),
    )
    def get(self, request: Request, endpoint_id: int) -> Response:
        state = self.query.pop("state", None)
        deliveries = queries.list_deliveries(endpoint=self._endpoint(endpoint_id), state=state)
        return take_page(deliveries, **self.query, is_newest_first=True).response(shapes.DeliveryRead)


class DeliveryView(EndpointView):
    scopes = {"GET": Scope.METRICS_WRITE}

    @extend_schema(operation_id="get_webhook_delivery", responses=shapes.DeliveryDetailRead)
    def get(self, request: Request, endpoint_id: int, delivery_id: int) -> Response:
        delivery = self._delivery(endpoint_id, delivery_id)
        return Response(shapes.detailed_delivery_json(delivery, queries.list_attempts(delivery=delivery)))


class ReplayDeliveryView(EndpointView):
    scopes = {"POST": Scope.METRICS_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="replay_webhook_delivery", request=None, responses={202: shapes.DeliveryRead})
    def post(self, request: Request, endpoint_id: int, delivery_id: int) -> Response:
        replayed = webhooks.replay_delivery(
            delivery=self._delivery(endpoint_id, delivery_id), actor=self.caller.actor, now=timezone.now()
        )
        return Response(shapes.delivery_json(replayed), status=HTTP_202_ACCEPTED)


class MemberView(CallerView):
    """What the views of a member's own mail share: a key is nobody's, so it has no mail."""

    def _membership(self) -> Membership:
        if self.caller.key_id is not None:
            raise PermissionRefused("Alert mail is a signed-in member's own; a key has none.", code="members_only")
        return email_queries.get_membership(
            organization=self.caller.organization, email=self.caller.actor.removeprefix("user:")
        )


class MyAlertEmailView(MemberView):
    scopes = {"GET": Scope.USAGE_READ, "PUT": Scope.USAGE_READ, "DELETE": Scope.USAGE_READ}

    @extend_schema(operation_id="get_my_alert_emails", responses=shapes.EmailSubscriptionRead)
    def get(self, request: Request) -> Response:
        return Response(shapes.subscription_json(email_queries.get_subscription(membership=self._membership())))

    @extend_schema(
        operation_id="set_my_alert_emails",
        request=shapes.EmailSubscriptionWrite,
        responses=shapes.EmailSubscriptionRead,
    )
    def put(self, request: Request) -> Response:
        membership = self._membership()
        frequency = DigestFrequency(self.read_body(shapes.EmailSubscriptionWrite)["frequency"])
        return Response(shapes.subscription_json(emails.subscribe(membership=membership, frequency=frequency)))

    @extend_schema(operation_id="stop_my_alert_emails", responses={204: None})
    def delete(self, request: Request) -> Response:
        emails.unsubscribe(membership=self._membership())
        return Response(status=HTTP_204_NO_CONTENT)


class TestAlertEmailView(MemberView):
    scopes = {"POST": Scope.USAGE_READ}
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="test_my_alert_emails", request=None, responses={202: None})
    def post(self, request: Request) -> Response:
        emails.send_test_email(membership=self._membership())
        return Response(status=HTTP_202_ACCEPTED)
