"""Shapes of the API of the forward port: what is accepted and what is answered."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from common.api import Flag, ListQuery, StrictSerializer
from metering.api.serializers import ExactText, InboxIds
from metering.dialects.weave.domain import MAX_WORD_CHARACTERS
from metering.dialects.weave.models import Instance, QuarantinedRecord, WeaveSettings


class InstanceWrite(StrictSerializer):
    internal_instance_id = ExactText(max_length=MAX_WORD_CHARACTERS)
    customer = ExactText(max_length=MAX_WORD_CHARACTERS, help_text="For whom the instance's amounts are counted.")


class InstanceRead(serializers.Serializer):
    internal_instance_id = serializers.CharField()
    customer = serializers.CharField()
    created_at = serializers.DateTimeField()

    def to_representation(self, instance: Instance) -> dict[str, Any]:
        return instance_json(instance)


def instance_json(instance: Instance) -> dict[str, Any]:
    return {
        "internal_instance_id": instance.internal_instance_id,
        "customer": instance.customer_external_id,
        "created_at": instance.created_at,
    }


class QuarantineListQuery(ListQuery):
    internal_instance_id = ExactText(max_length=MAX_WORD_CHARACTERS, required=False)
    code = ExactText(max_length=64, required=False)


class QuarantinedRecordRead(serializers.Serializer):
    id = serializers.CharField()
    internal_instance_id = serializers.CharField(help_text="Empty where the record does not tell.")
    unique_key = serializers.CharField()
    amount_type = serializers.CharField()
    code = serializers.CharField(help_text="Why it waits, like `unknown_instance` or `unknown_metric`.")
    message = serializers.CharField()
    record = serializers.CharField(help_text="The record as it came: JSON, as text.")
    whole = serializers.BooleanField(help_text="False: only its beginning is kept, and it cannot be released.")
    peer = serializers.CharField(help_text="Who sent it.")
    received_at = serializers.DateTimeField()

    def to_representation(self, record: QuarantinedRecord) -> dict[str, Any]:
        return {
            "id": str(record.pk),
            "internal_instance_id": record.internal_instance_id,
            "unique_key": record.unique_key,
            "amount_type": record.amount_type,
            "code": record.reason,
            "message": record.message,
            "record": record.record,
            "whole": record.is_whole,
            "peer": record.peer,
            "received_at": record.received_at,
        }


class ReleaseWrite(InboxIds):
    internal_instance_id = ExactText(max_length=MAX_WORD_CHARACTERS, required=False)

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        if len(attributes) > 1:
            message = "Name an instance or ids, or neither for all that waits."
            raise serializers.ValidationError({"ids": serializers.ErrorDetail(message, "one_of")})
        return attributes


class DiscardWrite(InboxIds):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["ids"].required = True


class ReleaseRead(serializers.Serializer):
    counted = serializers.IntegerField()
    still_waiting = serializers.IntegerField()


class DiscardRead(serializers.Serializer):
    discarded = serializers.IntegerField()


class WeaveSettingsWrite(StrictSerializer):
    is_metric_auto_created = Flag(
        required=False, help_text="Whether an amount type that no metric listens to becomes a sum metric."
    )


class WeaveSettingsRead(serializers.Serializer):
    is_metric_auto_created = serializers.BooleanField()

    def to_representation(self, settings: WeaveSettings) -> dict[str, Any]:
        return {"is_metric_auto_created": settings.is_metric_auto_created}
