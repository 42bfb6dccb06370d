"""The API of the forward port: instances, the quarantine, settings."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED, HTTP_204_NO_CONTENT

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from common.api import ListQuery, take_page
from common.errors import NotFound
from metering.dialects.weave.access import list_visible_records, require_mapping
from metering.dialects.weave.api import serializers as shapes
from metering.dialects.weave.queries import get_weave_settings, list_instances
from metering.dialects.weave.services import (
    discard_quarantined,
    map_instance,
    release_quarantined,
    unmap_instance,
    update_weave_settings,
)


class InstanceListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "POST": Scope.ADMIN}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_weave_instances", parameters=[ListQuery], responses=page_of(shapes.InstanceRead))
    def get(self, request: Request) -> Response:
        rows = list_instances(self.caller.organization)
        return take_page(rows, field="internal_instance_id", **self.query).response(shapes.InstanceRead)

    @extend_schema(
        operation_id="map_weave_instance", request=shapes.InstanceWrite, responses={201: shapes.InstanceRead}
    )
    def post(self, request: Request) -> Response:
        """Count the instance's amounts for a customer from now on. What waits for it waits on until it is released."""
        require_mapping(self.caller)
        body = self.read_body(shapes.InstanceWrite)
        instance = map_instance(
            organization=self.caller.organization,
            internal_instance_id=body["internal_instance_id"],
            customer_external_id=body["customer"],
            actor=self.caller.actor,
        )
        return Response(shapes.instance_json(instance), status=HTTP_201_CREATED)


class InstanceView(CallerView):
    scopes = {"DELETE": Scope.ADMIN}

    @extend_schema(operation_id="unmap_weave_instance", responses={204: None})
    def delete(self, request: Request, internal_instance_id: str) -> Response:
        """Quarantine the instance's records from now on. What was counted stays."""
        was_mapped = unmap_instance(
            organization=self.caller.organization,
            internal_instance_id=internal_instance_id,
            actor=self.caller.actor,
        )
        if not was_mapped:
            raise NotFound("There is no such instance.")
        return Response(status=HTTP_204_NO_CONTENT)


class QuarantineView(CallerView):
    scopes = {"GET": Scope.METRICS_WRITE}
    queries = {"GET": shapes.QuarantineListQuery}

    @extend_schema(
        operation_id="list_weave_quarantine",
        parameters=[shapes.QuarantineListQuery],
        responses=page_of(shapes.QuarantinedRecordRead),
    )
    def get(self, request: Request) -> Response:
        """List what waits, newest first. Records of unknown instances are shown to those who may map them."""
        rows = list_visible_records(self.caller)
        if (instance := self.query.pop("internal_instance_id", None)) is not None:
            rows = rows.filter(internal_instance_id=instance)
        if (code := self.query.pop("code", None)) is not None:
            rows = rows.filter(reason=code)
        return take_page(rows, is_newest_first=True, **self.query).response(shapes.QuarantinedRecordRead)


class QuarantineReleaseView(CallerView):
    scopes = {"POST": Scope.METRICS_WRITE}

    @extend_schema(operation_id="release_weave_quarantine", request=shapes.ReleaseWrite, responses=shapes.ReleaseRead)
    def post(self, request: Request) -> Response:
        """Count what waits, with its own time: all of it, an instance's, or the records with these ids."""
        body = self.read_body(shapes.ReleaseWrite)
        result = release_quarantined(
            organization=self.caller.organization,
            internal_instance_id=body.get("internal_instance_id"),
            ids=body.get("ids"),
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response({"counted": result.counted, "still_waiting": result.still_waiting})


class QuarantineDiscardView(CallerView):
    scopes = {"POST": Scope.METRICS_WRITE}

    @extend_schema(operation_id="discard_weave_quarantine", request=shapes.DiscardWrite, responses=shapes.DiscardRead)
    def post(self, request: Request) -> Response:
        """Drop these records for good. Ids of what the caller does not see are passed over."""
        ids = self.read_body(shapes.DiscardWrite)["ids"]
        visible = list_visible_records(self.caller).filter(pk__in=ids).values_list("pk", flat=True)
        discarded = discard_quarantined(
            organization=self.caller.organization, ids=list(visible), actor=self.caller.actor
        )
        return Response({"discarded": discarded})


class SettingsView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "PATCH": Scope.METRICS_WRITE}

    @extend_schema(operation_id="get_weave_settings", responses=shapes.WeaveSettingsRead)
    def get(self, request: Request) -> Response:
        return Response(shapes.WeaveSettingsRead(get_weave_settings(self.caller.organization)).data)

    @extend_schema(
        operation_id="update_weave_settings", request=shapes.WeaveSettingsWrite, responses=shapes.WeaveSettingsRead
    )
    def patch(self, request: Request) -> Response:
        organization = self.caller.organization
        changes = self.read_body(shapes.WeaveSettingsWrite, is_partial=True)
        if changes:
            update_weave_settings(organization=organization, actor=self.caller.actor, **changes)
        return Response(shapes.WeaveSettingsRead(get_weave_settings(organization)).data)
