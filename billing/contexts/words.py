"""Words for people: what prices, percentages and days read like on a page."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from billing.domain.currencies import money_text
from billing.domain.prices import Price, PriceModel, Tier
from billing.queries.charges import Charge
from common.numbers import readable_text

STATUS_BADGES = {
    "active": "is-success",
    "trial": "is-accent",
    "paused": "is-warning",
    "scheduled": "",
    "canceling": "is-warning",
    "ended": "",
}


def price_text(charge: Charge) -> str:
    """Say what a price is: "0.001 USD per unit beyond 100 000"."""
    price, unit = charge.price, (charge.metric.unit if charge.metric else "") or "unit"
    text = _model_text(price, unit)
    if price.included_quantity:
        text += f", beyond {readable_text(price.included_quantity)} included"
    if price.minimum is not None:
        text += f", at least {money_text(price.minimum, price.currency)}"
    if price.maximum is not None:
        text += f", at most {money_text(price.maximum, price.currency)}"
    return text


def _model_text(price: Price, unit: str) -> str:
    amount = price.amount if price.amount is not None else Decimal(0)
    match price.model:
        case PriceModel.FLAT:
            return money_text(amount, price.currency)
        case PriceModel.PER_UNIT:
            return f"{money_text(amount, price.currency)} per {unit}"
        case PriceModel.PACKAGE:
            size = readable_text(price.package_size or Decimal(1))
            return f"{money_text(amount, price.currency)} per {size} begun"
        case PriceModel.PERCENT_OF_AMOUNT:
            return f"{readable_text(amount)}\u202f% of the amount"
        case PriceModel.GRADUATED:
            return f"each {unit} by its tier"
        case PriceModel.VOLUME:
            return f"all of it by the tier reached, per {unit}"


def tier_texts(price: Price) -> list[str]:
    """Say what each tier costs: "up to 1 000: 0.05 USD each"."""
    return [_tier_text(tier, price, is_only=len(price.tiers) == 1) for tier in price.tiers]


def _tier_text(tier: Tier, price: Price, *, is_only: bool) -> str:
    reach = "beyond" if tier.up_to is None else f"up to {readable_text(tier.up_to)}"
    flat = f" and {money_text(tier.flat_amount, price.currency)} once" if tier.flat_amount else ""
    return f"{'any' if is_only else reach}: {money_text(tier.unit_amount, price.currency)} each{flat}"


def filter_texts(charge: Charge) -> list[str]:
    return [f"{key}: {', '.join(values)}" for key, values in sorted(charge.filters.items())]


def percent_text(percent: Decimal) -> str:
    text = f"{percent.normalize():f}"
    return f"{text}\u202f%"


def last_day_of(expires_at: datetime) -> datetime:
    """Return a time of the last day on which a period may end that is still paid."""
    return expires_at - 2 * timedelta.resolution
