"""Shapes of explanations, re-derivations and usage checks. Quantities and amounts are text, as everywhere."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from rest_framework import serializers

from billing.api.fields import PeriodRead, period_json
from billing.api.invoice_serializers import InvoiceLineRead, line_json
from billing.api.plan_serializers import PriceRead, decimal_text, price_json
from billing.api.reporting_serializers import QueryFlag
from billing.domain.periods import BillingPeriod as Span
from billing.domain.proration import WHOLE, Part
from billing.models import BillingPeriod, UsageCheck
from billing.queries.explanations import (
    AdjustmentExplanation,
    CreditExplanation,
    Kept,
    LineEvent,
    LineExplanation,
    MetricChanges,
    TrueUpExplanation,
    UsageExplanation,
)
from billing.queries.invoices import read_line
from billing.queries.rederivation import DerivedLine, Rederivation
from billing.queries.usage_checks import unbilled_quantity
from common.api import ListQuery, encode_cursor
from metering.queries import CountedEvent


class ExplainQuery(ListQuery):
    """Pages of events."""


class CheckListQuery(ListQuery):
    agrees = QueryFlag(required=False, help_text="false: only what differs.")


# --- explanations ---------------------------------------------------------------------------------------------


class CountedEventRead(serializers.Serializer):
    offset = serializers.CharField()
    idempotency_key = serializers.CharField()
    occurred_at = serializers.DateTimeField()
    quantity = serializers.CharField(allow_null=True)
    member = serializers.CharField(allow_null=True)
    operation = serializers.ChoiceField(choices=["add", "remove"])
    dimensions = serializers.DictField(help_text="As the metric groups by them; `(other)` for a value not listed.")


class LineEventRead(CountedEventRead):
    adds = serializers.CharField(
        allow_null=True, help_text="To this line's quantity; null where quantities do not add up."
    )
    is_deciding = serializers.BooleanField(
        help_text="The peak, the last reading, the event that last added a member: what makes the quantity."
    )


class DayRead(serializers.Serializer):
    day = serializers.DateField(help_text="Of the subscription's zone.")
    quantity = serializers.CharField()


class GroupRead(serializers.Serializer):
    dimensions = serializers.DictField()
    quantity = serializers.CharField()


class KeptRead(serializers.Serializer):
    rollups = serializers.CharField(help_text="What the rollups say now.")
    events = serializers.CharField(allow_null=True, help_text="What raw events say now; null: not all are kept.")


class UsageRead(serializers.Serializer):
    metric = serializers.CharField()
    quantity = serializers.CharField(help_text="What the events known at the cut-off make.")
    event_count = serializers.IntegerField(allow_null=True, help_text="Null: too many to be folded one by one.")
    is_folded = serializers.BooleanField(
        help_text="false: so many events that the database added them up; days, groups and deciding are empty then."
    )
    does_add_up = serializers.BooleanField(help_text="Whether days and groups add up to the quantity.")
    days = DayRead(many=True)
    groups = GroupRead(many=True, help_text="By the dimensions that prices of the metric name.")
    deciding = CountedEventRead(many=True, help_text="The first hundred.")
    deciding_count = serializers.IntegerField()
    now = KeptRead(allow_null=True, help_text="Null: the totals of then are no longer kept.")
    changed_since_cutoff = serializers.CharField(
        allow_null=True, help_text="What came and was taken back since, to be adjusted on a later invoice."
    )


class PartRead(serializers.Serializer):
    start = serializers.CharField(help_text="Fractions of the nominal period: `1/2`.")
    end = serializers.CharField()


class PriceChangeRead(serializers.Serializer):
    name = serializers.CharField()
    before_quantity = serializers.CharField(allow_null=True)
    before_minor = serializers.CharField(allow_null=True)
    now_quantity = serializers.CharField(allow_null=True)
    now_minor = serializers.CharField(allow_null=True)


class MetricChangesRead(serializers.Serializer):
    metric = serializers.CharField()
    arrived = CountedEventRead(many=True, help_text="The first hundred.")
    arrived_count = serializers.IntegerField()
    taken_back = CountedEventRead(many=True, help_text="Voided in between; the first hundred.")
    taken_back_count = serializers.IntegerField()


class BilledRead(serializers.Serializer):
    number = serializers.CharField()
    amount_minor = serializers.CharField()


class AdjustmentRead(serializers.Serializer):
    billed = BilledRead(many=True)
    credited = BilledRead(many=True, help_text="What credit notes gave back, where it is counted: below nothing.")
    former_known_at = serializers.DateTimeField(allow_null=True, help_text="Null: nothing of it stood on an invoice.")
    prices = PriceChangeRead(many=True)
    changes = MetricChangesRead(many=True, allow_null=True, help_text="Null: they are too many, or no longer kept.")


class TermPeriodRead(PeriodRead):
    total_minor = serializers.CharField()


class TrueUpRead(serializers.Serializer):
    commitment_minor = serializers.CharField()
    periods = TermPeriodRead(many=True)


class CreditedRead(serializers.Serializer):
    invoice = serializers.CharField()
    number = serializers.CharField()
    line = InvoiceLineRead(allow_null=True)


class AgreementRead(serializers.Serializer):
    """Whether each stage says what the line says; null where the line has no such stage, or it is no longer kept."""

    events = serializers.BooleanField(allow_null=True)
    rollups = serializers.BooleanField(allow_null=True)
    steps = serializers.BooleanField(allow_null=True)


class LineExplanationRead(serializers.Serializer):
    invoice = serializers.CharField()
    number = serializers.CharField()
    line = InvoiceLineRead(help_text="As it was stored, with its steps: they add up to the amount.")
    zone = serializers.CharField()
    known_at = serializers.DateTimeField()
    cutoff = serializers.CharField(allow_null=True)
    plan = serializers.CharField(allow_null=True)
    version = serializers.IntegerField(allow_null=True)
    price = PriceRead(allow_null=True)
    part = PartRead(allow_null=True, help_text="Null: the price holds for the whole period.")
    usage = UsageRead(allow_null=True)
    events = LineEventRead(many=True, help_text="A page of those that this price takes, as they arrived.")
    next_cursor = serializers.CharField(allow_null=True)
    adjustment = AdjustmentRead(allow_null=True)
    true_up = TrueUpRead(allow_null=True)
    credit = CreditedRead(allow_null=True)
    amount_minor = serializers.CharField()
    agrees = AgreementRead()
    problem = serializers.CharField(help_text="Why the stored line is all there is; else empty.")


def explanation_json(found: LineExplanation) -> dict[str, Any]:
    invoice, usage = found.invoice, found.usage
    next_after = usage.next_after if usage else None
    return {
        "invoice": str(invoice.pk),
        "number": invoice.number,
        "line": line_json(found.line.position, read_line(found.line)),
        "zone": found.zone.key,
        "known_at": invoice.known_at,
        "cutoff": None if invoice.cutoff_id is None else str(invoice.cutoff_id),
        "plan": found.version.plan.code if found.version else None,
        "version": found.version.number if found.version else None,
        "price": price_json(found.charge) if found.charge else None,
        "part": _part_json(found.part),
        "usage": _usage_json(usage) if usage else None,
        "events": [_line_event_json(each) for each in usage.events] if usage else [],
        "next_cursor": None if next_after is None else encode_cursor(next_after),
        "adjustment": _adjustment_json(found.adjustment) if found.adjustment else None,
        "true_up": _true_up_json(found.true_up) if found.true_up else None,
        "credit": _credit_json(found.credit) if found.credit else None,
        "amount_minor": str(found.line.amount_minor),
        "agrees": {"events": found.agrees.events, "rollups": found.agrees.rollups, "steps": found.agrees.steps},
        "problem": found.problem,
    }


def _part_json(part: Part) -> dict[str, str] | None:
    return None if part == WHOLE else {"start": str(part.start), "end": str(part.end)}


def _event_json(event: CountedEvent) -> dict[str, Any]:
    return {
        # Beyond what a number in JSON is exact to everywhere.
        "offset": str(event.offset),
        "idempotency_key": event.idempotency_key,
        "occurred_at": event.occurred_at,
        "quantity": decimal_text(event.quantity),
        "member": event.member,
        "operation": event.operation,
        "dimensions": event.dimensions,
    }


def _line_event_json(each: LineEvent) -> dict[str, Any]:
    return {**_event_json(each.event), "adds": decimal_text(each.adds), "is_deciding": each.is_deciding}


def _usage_json(usage: UsageExplanation) -> dict[str, Any]:
    return {
        "metric": usage.metric.code,
        "quantity": decimal_text(usage.quantity),
        "event_count": usage.event_count,
        "is_folded": usage.is_folded,
        "does_add_up": usage.does_add_up,
        "days": [{"day": each.day, "quantity": decimal_text(each.quantity)} for each in usage.days],
        "groups": [{"dimensions": each.group, "quantity": decimal_text(each.quantity)} for each in usage.groups],
        "deciding": [_event_json(event) for event in usage.deciding],
        "deciding_count": usage.deciding_count,
        "now": _kept_json(usage.kept) if usage.kept else None,
        "changed_since_cutoff": decimal_text(usage.changed_since),
    }


def _kept_json(kept: Kept) -> dict[str, Any]:
    return {"rollups": decimal_text(kept.rollups_quantity), "events": decimal_text(kept.events_quantity)}


def _adjustment_json(found: AdjustmentExplanation) -> dict[str, Any]:
    return {
        "billed": [{"number": number, "amount_minor": decimal_text(amount)} for number, amount in found.billed],
        "credited": [{"number": number, "amount_minor": decimal_text(amount)} for number, amount in found.credited],
        "former_known_at": found.former_known_at,
        "prices": [
            {
                "name": each.name,
                "before_quantity": decimal_text(each.before_quantity),
                "before_minor": decimal_text(each.before_minor),
                "now_quantity": decimal_text(each.now_quantity),
                "now_minor": decimal_text(each.now_minor),
            }
            for each in found.prices
        ],
        "changes": None if found.changes is None else [_changes_json(each) for each in found.changes],
    }


def _changes_json(changes: MetricChanges) -> dict[str, Any]:
    return {
        "metric": changes.metric.code,
        "arrived": [_event_json(event) for event in changes.arrived],
        "arrived_count": changes.arrived_count,
        "taken_back": [_event_json(event) for event in changes.taken_back],
        "taken_back_count": changes.taken_back_count,
    }


def _true_up_json(found: TrueUpExplanation) -> dict[str, Any]:
    return {
        "commitment_minor": str(found.commitment_minor),
        "periods": [{**_period_json(row), "total_minor": str(total)} for row, total in found.periods],
    }


def _credit_json(found: CreditExplanation) -> dict[str, Any]:
    return {
        "invoice": str(found.invoice.pk),
        "number": found.invoice.number,
        "line": line_json(found.line.position, read_line(found.line)) if found.line else None,
    }


def _period_json(row: BillingPeriod) -> dict[str, Any]:
    return period_json(Span(row.starts_at, row.ends_at, row.is_trial))


# --- re-derivations -------------------------------------------------------------------------------------------


class DerivedLineRead(serializers.Serializer):
    position = serializers.IntegerField(allow_null=True, help_text="Null: the invoice lacks it.")
    name = serializers.CharField()
    stored_quantity = serializers.CharField(allow_null=True)
    derived_quantity = serializers.CharField(allow_null=True)
    stored_minor = serializers.CharField(allow_null=True)
    derived_minor = serializers.CharField(allow_null=True)
    difference_minor = serializers.CharField(help_text="Stored less derived.")
    agrees = serializers.BooleanField()


class RederivationRead(serializers.Serializer):
    invoice = serializers.CharField()
    number = serializers.CharField()
    agrees = serializers.BooleanField(
        allow_null=True, help_text="Null: it cannot be told any more; `problem` says why."
    )
    stored_tax_minor = serializers.CharField()
    derived_tax_minor = serializers.CharField(allow_null=True)
    stored_total_minor = serializers.CharField()
    derived_total_minor = serializers.CharField(allow_null=True)
    lines = DerivedLineRead(many=True)
    problem = serializers.CharField()


def rederivation_json(found: Rederivation) -> dict[str, Any]:
    return {
        "invoice": str(found.invoice.pk),
        "number": found.invoice.number,
        "agrees": found.agrees,
        "stored_tax_minor": str(found.stored_tax_minor),
        "derived_tax_minor": _whole(found.derived_tax_minor),
        "stored_total_minor": str(found.stored_total_minor),
        "derived_total_minor": _whole(found.derived_total_minor),
        "lines": [_derived_line_json(line) for line in found.lines],
        "problem": found.problem,
    }


def _derived_line_json(line: DerivedLine) -> dict[str, Any]:
    return {
        "position": line.position,
        "name": line.name,
        "stored_quantity": decimal_text(line.stored_quantity),
        "derived_quantity": decimal_text(line.derived_quantity),
        "stored_minor": _whole(line.stored_minor),
        "derived_minor": _whole(line.derived_minor),
        "difference_minor": str((line.stored_minor or 0) - (line.derived_minor or 0)),
        "agrees": line.agrees,
    }


def _whole(amount: int | None) -> str | None:
    return None if amount is None else str(amount)


# --- usage checks ---------------------------------------------------------------------------------------------


class UsageCheckRead(serializers.Serializer):
    id = serializers.CharField()
    customer = serializers.CharField()
    subscription = serializers.CharField()
    period = PeriodRead()
    metric = serializers.CharField()
    events_quantity = serializers.CharField(allow_null=True, help_text="Null: it cannot be told; so of all four.")
    rollups_quantity = serializers.CharField(allow_null=True)
    invoiced_quantity = serializers.CharField(
        allow_null=True, help_text="What was billed last; later events are adjusted by the next invoice."
    )
    reported_quantity = serializers.CharField(allow_null=True)
    unbilled_quantity = serializers.CharField(
        allow_null=True,
        help_text="What came too late for any invoice; negative: was taken back. Null while the period is adjusted.",
    )
    agrees = serializers.BooleanField()
    checked_at = serializers.DateTimeField()
    differs_since = serializers.DateTimeField(allow_null=True)


def check_json(row: UsageCheck, adjusted_since: datetime) -> dict[str, Any]:
    quantities: dict[str, Decimal | None] = {
        "events_quantity": row.events_quantity,
        "rollups_quantity": row.rollups_quantity,
        "invoiced_quantity": row.invoiced_quantity,
        "reported_quantity": row.reported_quantity,
        "unbilled_quantity": unbilled_quantity(row, adjusted_since),
    }
    return {
        "id": str(row.pk),
        "customer": row.period.subscription.customer.external_id,
        "subscription": str(row.period.subscription_id),
        "period": _period_json(row.period),
        "metric": row.metric.code,
        **{name: decimal_text(quantity) for name, quantity in quantities.items()},
        "agrees": row.agrees,
        "checked_at": row.checked_at,
        "differs_since": row.differs_since,
    }
