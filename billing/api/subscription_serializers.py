"""Shapes of subscriptions. Meaning is checked by `billing.services.subscriptions`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rest_framework import serializers

from billing.api.fields import IdempotencyKey, PeriodRead, period_json
from billing.domain.periods import period_at
from billing.models import Subscription, SubscriptionPause, SubscriptionPhase
from billing.queries.subscriptions import current_phase, next_phase
from billing.services.plans import MAX_TRIAL_DAYS
from billing.services.subscriptions import When
from common.api import Flag, ListQuery, Moment, StrictSerializer, Text, WholeNumber
from metering.api.serializers import ExactText

WHEN = [when.value for when in When]


class SubscriptionWrite(StrictSerializer):
    customer = ExactText(max_length=256)
    plan = ExactText(max_length=64)
    plan_version = WholeNumber(min_value=1, required=False, help_text="Default: the plan's latest active one.")
    start = Moment(required=False, help_text="Default: now. In the past: what was used since is charged.")
    anchor_day = WholeNumber(
        min_value=1,
        max_value=31,
        required=False,
        help_text="Day on which periods begin; default: the first's.",
    )
    zone = ExactText(max_length=64, required=False, help_text="Default: the customer's, else the organization's.")
    trial_days = WholeNumber(min_value=0, max_value=MAX_TRIAL_DAYS, required=False, help_text="Default: the version's.")
    prorated = Flag(
        default=True, help_text="Whether fees hold in proportion to the time where a period is cut; else for all of it."
    )
    idempotency_key = IdempotencyKey(
        required=False,
        help_text="Or the header Idempotency-Key. The same request again answers with the same subscription.",
    )


class SubscriptionListQuery(ListQuery):
    customer = Text(required=False, max_length=256)


class CancelWrite(StrictSerializer):
    when = serializers.ChoiceField(choices=WHEN, default=When.PERIOD_END.value)


class ChangePlanWrite(StrictSerializer):
    plan = ExactText(max_length=64)
    plan_version = WholeNumber(min_value=1, required=False)
    when = serializers.ChoiceField(
        choices=WHEN,
        default=When.PERIOD_END.value,
        help_text="`now` cuts the current period; of a subscription that is not prorated it charges all of it under "
        "the new plan.",
    )


class PlanChangeRead(serializers.Serializer):
    plan = serializers.CharField()
    plan_version = serializers.IntegerField()
    starts_at = serializers.DateTimeField()


class PauseWrite(StrictSerializer):
    when = serializers.ChoiceField(choices=WHEN, default=When.NOW.value)
    resumes_at = Moment(required=False, help_text="Default: it lasts until somebody resumes it.")


class PauseRead(serializers.Serializer):
    start = serializers.DateTimeField()
    resumes_at = serializers.DateTimeField(allow_null=True)


class SubscriptionRead(serializers.Serializer):
    id = serializers.CharField()
    customer = serializers.CharField()
    plan = serializers.CharField()
    plan_version = serializers.IntegerField()
    status = serializers.ChoiceField(choices=["scheduled", "trial", "active", "paused", "canceling", "ended"])
    start = serializers.DateTimeField()
    anchor_day = serializers.IntegerField()
    zone = serializers.CharField()
    trial_ends_at = serializers.DateTimeField(allow_null=True)
    ends_at = serializers.DateTimeField(allow_null=True)
    canceled_at = serializers.DateTimeField(allow_null=True)
    current_period = PeriodRead(allow_null=True)
    scheduled_change = PlanChangeRead(allow_null=True)
    prorated = serializers.BooleanField()
    pause = PauseRead(allow_null=True, help_text="The one that it is in, or the next one.")
    created_at = serializers.DateTimeField()


def subscription_json(
    subscription: Subscription, phases: list[SubscriptionPhase], pause: SubscriptionPause | None, now: datetime
) -> dict[str, Any]:
    current, coming = current_phase(phases, subscription, now), next_phase(phases, subscription, now)
    period = period_at(subscription.cycle, now)
    return {
        "id": str(subscription.pk),
        "customer": subscription.customer.external_id,
        "plan": current.version.plan.code,
        "plan_version": current.version.number,
        "status": subscription.status_at(now, pause),
        "start": subscription.starts_at,
        "anchor_day": subscription.anchor_day,
        "zone": subscription.zone,
        "trial_ends_at": subscription.trial_ends_at,
        "ends_at": subscription.ends_at,
        "canceled_at": subscription.canceled_at,
        "current_period": None if period is None else period_json(period),
        "scheduled_change": None
        if coming is None
        else {
            "plan": coming.version.plan.code,
            "plan_version": coming.version.number,
            "starts_at": coming.starts_at,
        },
        "prorated": subscription.is_prorated,
        "pause": None if pause is None else {"start": pause.starts_at, "resumes_at": pause.ends_at},
        "created_at": subscription.created_at,
    }
