"""The audit log, and the one way to change a row's settings so that the log tells old and new."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Model

from accounts.models import AuditEntry, Organization
from common.errors import FieldError, InvalidInput


def record_audit(
    *, organization: Organization, actor: str, action: str, target: str, details: dict[str, Any] | None = None
) -> None:
    """Append one entry. Call it in the transaction of the change, so that neither exists without the other."""
    AuditEntry.objects.create(
        organization=organization, actor=actor, action=action, target=target, details=details or {}
    )


def change_fields(
    row: Model, changes: Mapping[str, Any], *, organization: Organization, actor: str, action: str, target: str
) -> None:
    """Set the fields that differ and record old and new values; nothing is written when nothing differs.

    The caller holds the row's lock, so that two editors cannot both record the same old value. Raises
    `InvalidInput` naming the fields that the model refuses.
    """
    details = {
        name: {"from": _plain(getattr(row, name)), "to": _plain(value)}
        for name, value in changes.items()
        if getattr(row, name) != value
    }
    if not details:
        return
    for name in details:
        setattr(row, name, changes[name])
    refuse_invalid(row)
    row.save(update_fields=list(details))
    record_audit(organization=organization, actor=actor, action=action, target=target, details=details)


def refuse_invalid(row: Model) -> None:
    """Raise `InvalidInput` naming every field that the model's own rules refuse. No query."""
    try:
        row.clean_fields(exclude={field.name for field in row._meta.fields if field.is_relation})
    except ValidationError as error:
        errors = [
            FieldError(name, reason.code or "invalid", " ".join(reason.messages))
            for name, reasons in error.error_dict.items()
            for reason in reasons
        ]
        raise InvalidInput(f"{errors[0].field}: {errors[0].message}", errors=errors) from None


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
