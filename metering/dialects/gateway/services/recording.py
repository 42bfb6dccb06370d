"""Taking in requests: what they are metered at, and their events into the one engine.

Owns no counting: `metering.services.ingest` stores, tells duplicates and answers the verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from accounts.models import Organization
from common.telemetry import METERING_ERRORS
from metering.admission import EventError
from metering.catalogs import API_GATEWAY
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway.queries.routes import get_route_table
from metering.dialects.gateway.recording import (
    UNIT_PROPERTY,
    Decoded,
    RecordingRules,
    TranslatedBatch,
    in_words_of_record,
    translate_records,
)
from metering.dialects.gateway.services.refusals import keep_refused
from metering.dialects.gateway.services.settings import get_settings
from metering.feeds import get_feed_book
from metering.incoming import IncomingEvent
from metering.services.ingest import IngestLimits, IngestResult, check_batch_size, ingest_events
from metering.services.metrics import install_catalog

_CODES = frozenset(definition.code for definition in API_GATEWAY.metrics)


@dataclass(frozen=True, slots=True)
class RecordingResult:
    """The verdicts, in the words of records. Not tracked: nothing was looked at, and nothing stored."""

    verdicts: IngestResult
    is_tracked: bool = True
    # Of the records that were taken although their expression gave no usable number.
    metering_errors: list[EventError] = field(default_factory=list)


def record_requests(
    *, organization: Organization, records: Sequence[Decoded], now: datetime, limits: IngestLimits, actor: str
) -> RecordingResult:
    """Store the requests and return a verdict for each; returns after the commit. Safe to repeat with request ids.

    The first request of an organization installs the catalog. Raises `TooLarge` and `InvalidInput` for a batch that
    is too large or empty.
    """
    check_batch_size(records)
    settings = get_settings(organization)
    if not settings.usage_tracking_enabled:
        return RecordingResult(IngestResult(), is_tracked=False)
    _ensure_catalog(organization, actor)
    rules = RecordingRules(
        table=get_route_table(organization),
        ip_storage=settings.usage_store_ip,
        is_path_stored=settings.usage_store_path,
    )
    batch = translate_records(records, rules)
    verdicts = ingest_events(organization=organization, events=batch.events, now=now, limits=limits)
    verdicts.errors = [in_words_of_record(error) for error in verdicts.errors]
    is_new = keep_refused(
        organization=organization, refused=batch.unmetered, errors=verdicts.errors, now=now, limits=limits
    )
    _count_errors(batch, verdicts, is_new)
    return RecordingResult(verdicts, metering_errors=_list_metering_errors(batch, verdicts))


def _ensure_catalog(organization: Organization, actor: str) -> None:
    """Install what is missing. No query while all of the catalog's metrics are active."""
    plan = get_feed_book(organization).plans.get(EVENT_TYPE)
    if plan is None or not {metric.code for metric in plan.metrics} >= _CODES:
        install_catalog(organization=organization, name=API_GATEWAY.name, actor=actor)
        # Another process may have installed it meanwhile: then nothing was created here that would tell the version.
        organization.refresh_from_db(fields=["metrics_version"])


def _list_metering_errors(batch: TranslatedBatch, verdicts: IngestResult) -> list[EventError]:
    refused = {error.index for error in verdicts.errors}
    return [
        EventError(index, batch.events[index].idempotency_key, error.code, "metering_expr", error.message)
        for index, error in batch.metering_errors.items()
        if index not in refused
    ]


def _count_errors(batch: TranslatedBatch, verdicts: IngestResult, new_refusals: set[int]) -> None:
    """Count each error once: not of a record that was stored or refused before, or is refused for something else."""
    counted: Counter[tuple[str, str]] = Counter()
    settled = {*verdicts.duplicate_indexes, *(error.index for error in verdicts.errors)} - new_refusals
    for index, error in batch.metering_errors.items():
        if index in settled:
            continue
        event = batch.events[index]
        policy = "reject"
        if isinstance(event, IncomingEvent) and event.properties:
            policy = "one" if event.properties[UNIT_PROPERTY] else "zero"
        counted[error.code, policy] += 1
    for (code, policy), count in counted.items():
        METERING_ERRORS.labels(code=code, policy=policy).inc(count)
