"""Every answer to "who is this, for which organization, and may they?".

One resolver turns a request into a `Caller`: an API key or a signed-in member, asked in the same words. Unknown
or foreign ids answer 404 elsewhere, because every read goes through the caller's organization; a known caller
without the scope answers 403 here.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.utils import timezone

from accounts.domain import LAST_USED_PRECISION, SCOPES_OF_ROLE, RateVerdict, Role, Scope, role_of_scopes
from accounts.models import ApiKey, Membership, Organization
from accounts.rate_limits import take_request
from accounts.sql.live_key import find_live_key
from common.errors import BadRequest, NotAuthenticated, NotFound, PermissionRefused, TooManyRequests
from common.middleware import RESPONSE_HEADERS

# Which organization a signed-in member of several means; a key needs no such header.
ORGANIZATION_HEADER = "Meterbook-Organization"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
IDS = range(1, 2**63)

_KEY = re.compile(r"mb_([0-9A-Za-z]{1,16})_([0-9A-Za-z]{1,128})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who acts, for one organization. `customer_id` and `metric_codes` narrow what a bound key sees (empty: all)."""

    organization: Organization
    actor: str
    scopes: frozenset[str]
    customer_id: int | None = None
    metric_codes: frozenset[str] = frozenset()
    # As which role the caller gives roles to others.
    role: Role = Role.VIEWER
    # The key that called; None for a signed-in member.
    key_id: int | None = None

    @property
    def is_bound(self) -> bool:
        return self.customer_id is not None or bool(self.metric_codes)

    def has(self, scope: Scope) -> bool:
        """Tell whether the caller has the scope; `admin` includes every other."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def require(self, scope: Scope) -> None:
        """Raise `PermissionRefused` unless the caller has the scope."""
        if not self.has(scope):
            raise PermissionRefused(f"This needs the scope {scope.value}.", code="missing_scope")

    def require_unbound(self) -> None:
        """Raise `PermissionRefused` for a key bound to one customer or to metrics."""
        if self.is_bound:
            raise PermissionRefused("A key bound to a customer or to metrics may not do this.", code="bound_key")


def hash_secret(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def authenticate_request(request: HttpRequest) -> Caller:
    """Return the caller that the `Authorization` header names or, without one, the session.

    Raises `NotAuthenticated`; `TooManyRequests` beyond the organization's rate limit; for sessions also
    `PermissionRefused` without a CSRF token, and `NotFound` or `BadRequest` where the organization is unclear.
    Costs one query for a key.
    """
    header = request.headers.get("Authorization")
    if header is None and (user := getattr(request, "user", None)) is not None and user.is_authenticated:
        return _authenticate_session(request)
    scheme, _, credentials = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not credentials.strip():
        raise _not_authenticated("Send your API key as `Authorization: Bearer mb_…`.")
    caller = authenticate_key(credentials.strip(), now=timezone.now())
    limit_rate(request, caller)
    return caller


def authenticate_key(key: str, *, now: datetime) -> Caller:
    """Return the caller of a valid key, and note at most once a minute that it was used."""
    parts = _KEY.match(key)
    api_key = find_live_key(prefix=parts[1], now=now) if parts else None
    if parts is None or api_key is None or not hmac.compare_digest(bytes(api_key.secret_hash), hash_secret(parts[2])):
        raise _not_authenticated("This API key is not valid.")
    _note_use(api_key, now)
    return Caller(
        organization=api_key.organization,
        actor=f"key:{api_key.prefix}",
        scopes=frozenset(api_key.scopes),
        customer_id=api_key.customer_id,
        metric_codes=frozenset(api_key.metric_codes),
        role=role_of_scopes(api_key.scopes),
        key_id=api_key.pk,
    )


def tell_rate(verdict: RateVerdict, now: datetime) -> dict[str, str]:
    """Return the verdict as headers of the native API."""
    return verdict.headers()


def limit_rate(
    request: HttpRequest, caller: Caller, *, tell: Callable[[RateVerdict, datetime], dict[str, str]] = tell_rate
) -> None:
    """Count the request against the key's share, where the organization limits one, and tell the client in headers."""
    limit = caller.organization.rate_limit_per_minute
    if limit is None or caller.key_id is None:
        return
    now = timezone.now()
    verdict = take_request(key_id=caller.key_id, limit=limit, now=now)
    if verdict is None:
        return
    headers = tell(verdict, now)
    request.META[RESPONSE_HEADERS] = headers
    if not verdict.is_allowed:
        raise TooManyRequests(f"This key may send {limit} requests a minute.", headers=headers)


def caller_for_session(request: HttpRequest, organization: Organization | int) -> Caller:
    """Return the signed-in person as a caller of the organization; strangers get the `NotFound` of an absent one.

    One query.
    """
    organization_id = organization.pk if isinstance(organization, Organization) else organization
    membership = (
        Membership.objects.for_organization(organization_id)
        .select_related("organization", "user")
        .filter(user_id=request.user.pk or 0)  # 0: nobody
        .first()
        if organization_id in IDS
        else None
    )
    if membership is None:
        raise NotFound("There is no such organization.")
    return _caller_of(membership)


def _authenticate_session(request: HttpRequest) -> Caller:
    if request.method not in SAFE_METHODS:
        _refuse_forgery(request)
    named = request.headers.get(ORGANIZATION_HEADER, "").strip()
    if named:
        # 19 digits hold every id; more would only be a long way to say 404.
        is_number = named.isascii() and named.isdigit() and len(named) <= 19
        return caller_for_session(request, int(named) if is_number else 0)
    memberships = Membership.objects.all_tenants().filter(user_id=request.user.pk or 0)
    match list(memberships.select_related("organization", "user")[:2]):
        case [membership]:
            return _caller_of(membership)
        case []:
            raise PermissionRefused("You are not a member of an organization.", code="no_organization")
    raise BadRequest(
        f"You belong to several organizations; name one in the header `{ORGANIZATION_HEADER}`.",
        code="organization_required",
    )


def _caller_of(membership: Membership) -> Caller:
    role = Role(membership.role)
    return Caller(
        organization=membership.organization,
        actor=f"user:{membership.user.email}",
        scopes=frozenset(SCOPES_OF_ROLE[role]),
        role=role,
    )


def _note_use(api_key: ApiKey, now: datetime) -> None:
    """Set `last_used_at` unless that happened within the minute; the condition lets one of many racing requests win."""
    stale = now - LAST_USED_PRECISION
    if api_key.last_used_at is not None and api_key.last_used_at > stale:
        return
    ApiKey.objects.all_tenants().filter(
        Q(last_used_at__isnull=True) | Q(last_used_at__lte=stale), pk=api_key.pk
    ).update(last_used_at=now)


class _CsrfCheck(CsrfViewMiddleware):
    """Django's check, made to say why instead of rendering a page."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        raise PermissionRefused(f"CSRF: {reason}", code="csrf_failed")


def _refuse_forgery(request: HttpRequest) -> None:
    """Raise `PermissionRefused` unless a session's unsafe request proves that it comes from one of our pages."""
    check = _CsrfCheck(lambda _: HttpResponse())
    check.process_request(request)
    check.process_view(request, lambda _: HttpResponse(), (), {})


def _not_authenticated(message: str) -> NotAuthenticated:
    return NotAuthenticated(message, headers={"WWW-Authenticate": "Bearer"})
