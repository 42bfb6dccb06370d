"""Writes of what customers and metrics are called at Stripe. What was planned before keeps the name it had."""

from __future__ import annotations

from datetime import datetime

from django.db import IntegrityError, transaction

from accounts.models import Customer, Organization
from accounts.services import record_audit
from billing.models import StripeCustomer, StripeMeter
from common.errors import Conflict, InvalidInput
from metering.models import ADDITIVE, Metric


class NameTaken(Conflict):
    code = "already_mapped"


@transaction.atomic
def name_customer(
    *, organization: Organization, customer: Customer, stripe_customer_id: str, actor: str, now: datetime
) -> StripeCustomer:
    """Say what a customer is called at Stripe; from the next run on its usage is reported. Raises `NameTaken`."""
    try:
        with transaction.atomic():
            named, _ = StripeCustomer.objects.for_organization(organization).update_or_create(
                organization=organization,
                customer=customer,
                defaults={"stripe_customer_id": stripe_customer_id},
                create_defaults={"stripe_customer_id": stripe_customer_id, "created_at": now},
            )
    except IntegrityError:
        raise NameTaken(f"Another customer is {stripe_customer_id} already.") from None
    record_audit(
        organization=organization,
        actor=actor,
        action="stripe_customer.named",
        target=customer.external_id,
        details={"stripe_customer_id": stripe_customer_id},
    )
    found: StripeCustomer = named
    return found


@transaction.atomic
def forget_customer(*, organization: Organization, customer: Customer, actor: str) -> None:
    """Report no more of a customer. What was planned is still sent."""
    rows = StripeCustomer.objects.for_organization(organization).filter(customer=customer)
    if rows.delete()[0]:
        record_audit(
            organization=organization, actor=actor, action="stripe_customer.forgotten", target=customer.external_id
        )


@transaction.atomic
def name_meter(
    *, organization: Organization, metric: Metric, event_name: str, actor: str, now: datetime
) -> StripeMeter:
    """Say which meter a metric is reported to. Raises `NameTaken`, or `InvalidInput` for a metric that does not add up.

    Of a peak, a reading or a distinct count no difference can be said to a meter that sums.
    """
    if metric.aggregation not in ADDITIVE:
        raise InvalidInput.of("metric", "Only counts and sums can be reported to a meter.", "not_additive")
    try:
        with transaction.atomic():
            named, _ = StripeMeter.objects.for_organization(organization).update_or_create(
                organization=organization,
                metric=metric,
                defaults={"event_name": event_name},
                create_defaults={"event_name": event_name, "created_at": now},
            )
    except IntegrityError:
        raise NameTaken(f"Another metric is reported as {event_name} already.") from None
    record_audit(
        organization=organization,
        actor=actor,
        action="stripe_meter.named",
        target=metric.code,
        details={"event_name": event_name},
    )
    found: StripeMeter = named
    return found


@transaction.atomic
def forget_meter(*, organization: Organization, metric: Metric, actor: str) -> None:
    """Report no more of a metric. What was planned is still sent."""
    rows = StripeMeter.objects.for_organization(organization).filter(metric=metric)
    if rows.delete()[0]:
        record_audit(organization=organization, actor=actor, action="stripe_meter.forgotten", target=metric.code)
