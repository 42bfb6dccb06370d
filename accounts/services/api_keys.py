"""API keys: issued once in clear, kept as a hash, rotated with a grace, revoked at once."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from accounts.access import hash_secret
from accounts.domain import MAX_ROTATION_GRACE, ROTATION_GRACE
from accounts.models import ApiKey, Customer, Organization, Scope
from accounts.services.audit import record_audit
from common.errors import Conflict, InvalidInput

PREFIX_BYTES = 6  # 12 digits: a collision, which the constraint refuses, is once in a lifetime
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key together with the only copy of its text."""

    api_key: ApiKey
    text: str


@transaction.atomic
def issue_api_key(
    *,
    organization: Organization,
    actor: str,
    name: str,
    scopes: Sequence[str],
    expires_at: datetime | None = None,
    customer: Customer | None = None,
    metric_codes: Sequence[str] = (),
) -> IssuedKey:
    """Create a key; its text is in the answer and nowhere else."""
    if customer is not None and customer.organization_id != organization.pk:
        raise InvalidInput.of("customer", "There is no such customer.", "unknown_customer")
    if not scopes:
        raise InvalidInput.of("scopes", "Give the key at least one scope.", "required")
    issued = _store_key(
        ApiKey(
            organization=organization,
            name=name,
            scopes=sorted({Scope(scope).value for scope in scopes}),
            expires_at=expires_at,
            customer=customer,
            metric_codes=sorted(set(metric_codes)),
        )
    )
    record_audit(
        organization=organization,
        actor=actor,
        action="api_key.created",
        target=issued.api_key.prefix,
        details={"name": name, "scopes": issued.api_key.scopes},
    )
    return issued


@transaction.atomic
def rotate_api_key(
    *, organization: Organization, actor: str, api_key: ApiKey, now: datetime, grace: timedelta = ROTATION_GRACE
) -> IssuedKey:
    """Issue a key with the same rights; the old one works until the end of the grace, or of its own life if sooner.

    The new key lives as long as the old one was meant to. Raises `Conflict` for a key that is revoked, expired
    or already rotated: of two who rotate at once, one gets the new key.
    """
    if not timedelta(0) <= grace <= MAX_ROTATION_GRACE:
        raise InvalidInput.of("grace_seconds", f"A grace lasts at most {MAX_ROTATION_GRACE.days} days.", "max_value")
    old = _lock_key(organization, api_key)
    if old.revoked_at is not None or old.replaced_by_id is not None or (old.expires_at and old.expires_at <= now):
        raise Conflict("Only a key in use can be rotated; this one is revoked, expired or rotated already.")
    issued = _store_key(
        ApiKey(
            organization=organization,
            name=old.name,
            scopes=old.scopes,
            expires_at=None if old.expires_at is None else now + (old.expires_at - old.created_at),
            customer_id=old.customer_id,
            metric_codes=old.metric_codes,
        )
    )
    old.replaced_by = issued.api_key
    old.expires_at = min(now + grace, old.expires_at or now + grace)
    old.save(update_fields=["replaced_by", "expires_at"])
    record_audit(
        organization=organization,
        actor=actor,
        action="api_key.rotated",
        target=old.prefix,
        details={"replaced_by": issued.api_key.prefix, "valid_until": old.expires_at.isoformat()},
    )
    return issued


@transaction.atomic
def revoke_api_key(*, organization: Organization, actor: str, api_key: ApiKey, now: datetime) -> ApiKey:
    """End a key at once. Twice is once."""
    current = _lock_key(organization, api_key)
    if current.revoked_at is None:
        current.revoked_at = now
        current.save(update_fields=["revoked_at"])
        record_audit(organization=organization, actor=actor, action="api_key.revoked", target=current.prefix)
    return current


def _store_key(api_key: ApiKey) -> IssuedKey:
    api_key.prefix, secret = secrets.token_hex(PREFIX_BYTES), secrets.token_hex(SECRET_BYTES)
    api_key.secret_hash = hash_secret(secret)
    api_key.save(force_insert=True)
    return IssuedKey(api_key, f"mb_{api_key.prefix}_{secret}")


def _lock_key(organization: Organization, api_key: ApiKey) -> ApiKey:
    return ApiKey.objects.for_organization(organization).select_for_update(of=("self",)).get(pk=api_key.pk)
