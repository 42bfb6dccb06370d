"""Reads and changes what an organization keeps of requests. Owns the defaults' place: no row means all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import transaction

from accounts.models import MAX_DAYS, Organization
from accounts.services.audit import change_fields
from common.errors import FieldError, InvalidInput, NotFound
from metering.dialects.gateway.models import GatewaySettings, IpStorage
from metering.domain import MAX_BATCH_EVENTS

MAX_FLUSH_INTERVAL_MS = 60_000
# As a command line, an environment or a form says it.
FLAGS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}


class _Unusable(ValueError):
    """What is wrong with a value, as a sentence."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name everywhere, what it is for, and how its values are read."""

    name: str
    explanation: str
    read: Callable[[Any], Any]


def _read_flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    flag = FLAGS.get(value.strip().lower()) if isinstance(value, str) else None
    if flag is None:
        raise _Unusable("Say true or false.")
    return flag


def _read_ip_storage(value: Any) -> str:
    """Read how addresses are kept; `true` and `false`, the words of before, mean whole and not at all."""
    word = value.strip().lower() if isinstance(value, str) else value
    if isinstance(word, str) and word in IpStorage.values:
        return word
    try:
        return IpStorage.FULL if _read_flag(word) else IpStorage.OFF
    except _Unusable:
        raise _Unusable("Say off, truncated or full (true and false are full and off).") from None


def _reader_of_numbers(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        text = value.strip() if isinstance(value, str) else str(value)
        is_number = isinstance(value, int | str | Decimal) and not isinstance(value, bool)
        # Longer texts only hold numbers that are too large.
        if not (is_number and text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
            raise _Unusable(f"Say a whole number from {least} to {most}.")
        return int(text)

    return read


_SETTINGS = (
    Setting(
        "usage_tracking_enabled",
        "Record requests. Off: what is sent is answered and not kept.",
        _read_flag,
    ),
    Setting(
        "usage_store_ip",
        "Addresses of clients: not at all, without their last part (/24, /48), or whole.",
        _read_ip_storage,
    ),
    Setting("usage_store_path", "Keep path and query of each request.", _read_flag),
    Setting(
        "usage_batch_size",
        "Requests that the middleware sends at once.",
        _reader_of_numbers(1, MAX_BATCH_EVENTS),
    ),
    Setting(
        "usage_flush_interval_ms",
        "Milliseconds after which the middleware sends what it has.",
        _reader_of_numbers(10, MAX_FLUSH_INTERVAL_MS),
    ),
    Setting("usage_compression", "The middleware compresses what it sends.", _read_flag),
    Setting(
        "usage_retention_days",
        "Days for which single requests are kept. Totals stay.",
        _reader_of_numbers(1, MAX_DAYS),
    ),
    Setting(
        "usage_aggregate_retention_days",
        "Days for which totals are kept; those of this month and the one before always are.",
        _reader_of_numbers(1, MAX_DAYS),
    ),
)
SETTINGS: Mapping[str, Setting] = {setting.name: setting for setting in _SETTINGS}


def get_settings(organization: Organization) -> GatewaySettings:
    """Return the organization's settings; one query. Where nothing was ever set: the defaults, unsaved."""
    stored = GatewaySettings.objects.for_organization(organization).first()
    return stored or GatewaySettings(organization=organization)


def get_setting(organization: Organization, name: str) -> Any:
    """Return one value. Raises `NotFound` where there is no such setting."""
    require_setting(name)
    return getattr(get_settings(organization), name)


def list_values(settings: GatewaySettings) -> dict[str, Any]:
    """Return every setting by its name."""
    return {name: getattr(settings, name) for name in SETTINGS}


def require_setting(name: str) -> None:
    if name not in SETTINGS:
        raise NotFound(f"There is no such setting. There are {', '.join(SETTINGS)}.")


def change_settings(
    *, organization: Organization, actor: str, changes: Mapping[str, Any], now: datetime
) -> GatewaySettings:
    """Change the named settings, all or none, and return all. Raises `InvalidInput` naming what is wrong.

    Values may be as JSON or a command line says them. What differs is in the audit log, with old and new value.
    """
    values = _read_values(changes)
    with transaction.atomic():
        GatewaySettings.objects.get_or_create(organization=organization)
        settings: GatewaySettings = (
            GatewaySettings.objects.for_organization(organization).select_for_update(no_key=True).get()
        )
        is_changed = any(getattr(settings, name) != value for name, value in values.items())
        change_fields(
            settings,
            values,
            organization=organization,
            actor=actor,
            action="gateway_settings.updated",
            target=", ".join(sorted(values))[:320],
        )
        if is_changed:
            settings.updated_at = now
            settings.save(update_fields=["updated_at"])
    return settings


def _read_values(changes: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    errors: list[FieldError] = []
    for name, value in changes.items():
        setting = SETTINGS.get(name)
        if setting is None:
            errors.append(FieldError(name[:100], "unknown_field", "There is no such setting."))
            continue
        try:
            values[name] = setting.read(value)
        except _Unusable as problem:
            errors.append(FieldError(name, "invalid", str(problem)))
    if errors:
        raise InvalidInput(f"{errors[0].field}: {errors[0].message}", errors=errors)
    return values
