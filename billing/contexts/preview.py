"""What prices come to along a quantity: the rows under the slider, each with its steps and its curve.

Every amount is the rating's own (`billing.domain.rating`); here it is only asked many times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from billing.contexts.words import filter_texts, price_text, tier_texts
from billing.documents.words import step_text
from billing.domain.currencies import money_text
from billing.domain.prices import Price
from billing.domain.rating import RatedLine, rate
from billing.queries.charges import ONCE, Charge
from common.numbers import readable_text
from metering.charts import Spark, spark_line

# The slider's whole way, and the points of a curve.
FULL = 100
CURVE_POINTS = 50
DEFAULT_PERCENT = 50
# How far the slider reaches where the price itself has no edge.
PLAIN_REACH = Decimal(1000)
PACKAGES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class StepRow:
    text: str
    amount: str


@dataclass(frozen=True, slots=True)
class PriceRow:
    """A price and, where it is previewed, what the slider's quantity costs."""

    label: str
    metric_code: str
    terms: str
    tiers: list[str]
    filters: list[str]
    quantity: Decimal | None
    unit: str
    amount: str
    steps: list[StepRow]
    # None: a fee, which has no curve.
    curve: Spark | None
    reach: str


@dataclass(frozen=True, slots=True)
class PricePreview:
    rows: list[PriceRow]
    total: str
    percent: int


def get_price_preview(charges: Sequence[Charge], *, currency: str, percent: int) -> PricePreview:
    """Rate each price at a share of its own reach."""
    lines = [rate(charge.price, _quantity_at(charge, percent)) for charge in charges]
    rows = [_row(charge, line) for charge, line in zip(charges, lines, strict=True)]
    return PricePreview(rows, money_text(sum(line.amount_minor for line in lines), currency), percent)


def list_steps(line: RatedLine) -> list[StepRow]:
    return [StepRow(step_text(step, line.currency), money_text(step.amount, line.currency)) for step in line.steps]


def _row(charge: Charge, line: RatedLine) -> PriceRow:
    reach = preview_reach(charge.price)
    is_fee = charge.metric is None
    return PriceRow(
        label=charge.label,
        metric_code=charge.metric.code if charge.metric else "",
        terms=price_text(charge),
        tiers=tier_texts(charge.price),
        filters=filter_texts(charge),
        quantity=None if is_fee else line.quantity,
        unit=charge.metric.unit if charge.metric else "",
        amount=money_text(line.amount_minor, line.currency),
        steps=list_steps(line),
        curve=None if is_fee else _curve(charge, reach),
        reach=readable_text(reach),
    )


def preview_reach(price: Price) -> Decimal:
    """Return up to which quantity a price is worth looking at: half as far again as its last edge."""
    edges = [tier.up_to for tier in price.tiers if tier.up_to is not None]
    beyond = max(edges, default=Decimal(0))
    if price.package_size is not None:
        beyond = price.package_size * PACKAGES_SHOWN
    edge = price.included_quantity + beyond
    return edge + edge / 2 if edge else PLAIN_REACH


def _quantity_at(charge: Charge, percent: int) -> Decimal:
    if charge.metric is None:
        return ONCE
    return preview_reach(charge.price) * percent / FULL


def _curve(charge: Charge, reach: Decimal) -> Spark:
    amounts = [
        Decimal(rate(charge.price, reach * place / CURVE_POINTS).amount_minor) for place in range(CURVE_POINTS + 1)
    ]
    currency = charge.price.currency
    most = money_text(amounts[-1], currency)
    return spark_line(
        amounts, is_last_partial=False, summary=f"Cost from nothing to {readable_text(reach)}, where it is {most}"
    )
