"""Who may do what: roles, scopes, and the tables that connect them; and the ids that follow from keys.

No ORM, no clock, no I/O.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from django.db import models  # for `TextChoices` only

# A rotated key works this much longer, so that every service can be given the new one in between.
ROTATION_GRACE = timedelta(hours=24)
MAX_ROTATION_GRACE = timedelta(days=30)
INVITATION_LIFETIME = timedelta(days=7)
# Recording every use would turn reads into writes; a minute is fine enough to see which keys are alive.
LAST_USED_PRECISION = timedelta(minutes=1)

RATE_WINDOW_SECONDS = 60
HEX_ID_LENGTH = 24


class Role(models.TextChoices):
    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    VIEWER = "viewer"


class Scope(models.TextChoices):
    EVENTS_WRITE = "events:write"
    USAGE_READ = "usage:read"
    METRICS_WRITE = "metrics:write"
    BILLING_READ = "billing:read"
    BILLING_WRITE = "billing:write"
    ADMIN = "admin"


# What a member may do is said in the words of keys, so that every view asks one question of every caller.
# Customers, projects and environments are configuration of metering: `metrics:write`. Keys, members, invitations,
# settings and the audit log are `admin`.
SCOPES_OF_ROLE: dict[Role, frozenset[Scope]] = {
    Role.OWNER: frozenset(Scope),
    Role.ADMIN: frozenset(Scope),
    Role.DEVELOPER: frozenset({Scope.EVENTS_WRITE, Scope.USAGE_READ, Scope.METRICS_WRITE}),
    Role.VIEWER: frozenset({Scope.USAGE_READ, Scope.BILLING_READ}),
}

# Which roles each role may give, change and take away. A key with the scope `admin` acts as an admin: it can be
# stolen without its owner's password and second factor, so it never makes or removes owners.
ROLES_MANAGED_BY: dict[Role, frozenset[Role]] = {
    Role.OWNER: frozenset(Role),
    Role.ADMIN: frozenset({Role.ADMIN, Role.DEVELOPER, Role.VIEWER}),
    Role.DEVELOPER: frozenset(),
    Role.VIEWER: frozenset(),
}


def role_of_scopes(scopes: Collection[str]) -> Role:
    """Return the role as which a key with these scopes manages members."""
    return Role.ADMIN if Scope.ADMIN in scopes else Role.VIEWER


def may_manage(actor: Role, *roles: str) -> bool:
    """Tell whether the actor may turn a member from one of these roles into another of them."""
    return ROLES_MANAGED_BY[actor].issuperset(roles)


def derive_project_id(*, organization_id: int, key: str) -> str:
    """Return the id of a project that was not given one: the same whether or not anybody registered its key."""
    return _derive_hex_id(organization_id, "project", key)


def derive_environment_id(*, organization_id: int, project_key: str, key: str) -> str:
    """Return the id of an environment that was not given one, as `derive_project_id` does."""
    return _derive_hex_id(organization_id, "environment", project_key, key)


def _derive_hex_id(*parts: int | str) -> str:
    # JSON keeps the parts apart, whatever characters the keys that came with events are made of.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:HEX_ID_LENGTH]


@dataclass(frozen=True, slots=True)
class RateVerdict:
    """Whether one more request fits, in the words of the `RateLimit-*` headers. Times are whole seconds."""

    is_allowed: bool
    limit: int
    remaining: int
    # Until the current minute ends and the count begins to fall.
    reset_seconds: int
    # Until the next request fits; 0 when this one did.
    retry_after_seconds: int = 0

    def headers(self) -> dict[str, str]:
        headers = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_seconds),
        }
        if not self.is_allowed:
            headers["Retry-After"] = str(self.retry_after_seconds)
        return headers


def used_of_sliding_window(*, current: int, previous: int, seconds_left: int) -> int:
    """Estimate the requests of the last 60 seconds: this minute's, and the last one's in proportion to its overlap."""
    return current + previous * seconds_left // RATE_WINDOW_SECONDS


def judge_rate(*, limit: int, current: int, previous: int, seconds_left: int) -> RateVerdict:
    """Say whether a request fits beside `current` and `previous` admitted ones; `seconds_left` of this minute."""
    used = used_of_sliding_window(current=current, previous=previous, seconds_left=seconds_left)
    if used < limit:
        return RateVerdict(True, limit, limit - used - 1, seconds_left)
    return RateVerdict(False, limit, 0, seconds_left, _seconds_until_room(limit, current, previous, seconds_left))


def _seconds_until_room(limit: int, current: int, previous: int, seconds_left: int) -> int:
    for waited in range(1, seconds_left):
        if used_of_sliding_window(current=current, previous=previous, seconds_left=seconds_left - waited) < limit:
            return waited
    # In the next minute this one is the previous, and its weight falls below the limit after a second at most.
    return seconds_left + 1
