"""Structured logs of every process: one event per line with its request id, on standard error.

`METERBOOK_LOG_FORMAT` is `text` (the event, then key=value; default) or `json`; `METERBOOK_LOG_LEVEL` is `INFO` by
default. Secrets never reach a line: fields whose names say so are blanked, and what looks like an API key is cut.
"""

import json
import re
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from config import env

_SECRET_NAMES = re.compile(r"authorization|cookie|password|secret|token|api_?key|body", re.IGNORECASE)
_API_KEYS = re.compile(r"\b(mb_[0-9a-zA-Z]{1,32})_[0-9a-zA-Z]+")
_URL_PASSWORDS = re.compile(r"(://[^:/@\s]*):[^@/\s]+@")
_PLAIN = re.compile(r'[^\s"=]+\Z')
_BLANK = "[secret]"


def remove_secrets(logger: Any, method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if _SECRET_NAMES.search(name):
            event[name] = _BLANK
        elif isinstance(value, str):
            event[name] = _URL_PASSWORDS.sub(rf"\1:{_BLANK}@", _API_KEYS.sub(rf"\1_{_BLANK}", value))
    return event


def _renderers() -> list[Processor]:
    """Return the last steps: how a line looks."""
    if env.text("METERBOOK_LOG_FORMAT", "text") == "json":
        return [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            remove_secrets,
            structlog.processors.JSONRenderer(),
        ]
    return [
        structlog.processors.format_exc_info,
        remove_secrets,
        render_text,
    ]


def render_text(logger: Any, method: str, event: EventDict) -> str:
    """Return `level event key=value …`, values with spaces in quotes, and a traceback on lines of its own."""
    level, message, traceback = event.pop("level", ""), event.pop("event", ""), event.pop("exception", None)
    pairs = (f"{name}={_quote(str(value))}" for name, value in event.items())
    line = " ".join([f"{level:<8}", str(message), *pairs])
    return line if traceback is None else f"{line}\n{traceback}"


def _quote(value: str) -> str:
    return value if _PLAIN.match(value) else json.dumps(value, ensure_ascii=False)


_shared: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(allow=["status_code", "task_id"]),
]

structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_shared,
        structlog.processors.StackInfoRenderer(),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "structured": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": _shared,
            "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers()],
        }
    },
    "filters": {"route_instead_of_path": {"()": "common.telemetry.RouteInsteadOfPath"}},
    "handlers": {"standard_error": {"class": "logging.StreamHandler", "formatter": "structured"}},
    "root": {"handlers": ["standard_error"], "level": env.text("METERBOOK_LOG_LEVEL", "INFO")},
    "loggers": {
        # Django's own handlers would print a second time, and mail administrators that nobody has named.
        "django": {"handlers": [], "propagate": True},
        # Refusals are answers, not incidents; RequestTelemetryMiddleware logs the failures.
        "django.request": {"level": "ERROR", "filters": ["route_instead_of_path"]},
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        # Two lines per task would drown everything: the sweep runs every two seconds. `config.worker` counts tasks.
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        # Two lines per usage report, whose row tells the same.
        "stripe": {"level": "WARNING"},
    },
}
