"""What every middleware does: let a request through and record it, or say why not. Knows nothing of HTTP frameworks."""

from __future__ import annotations

import json
import logging
from typing import Any

from meterbook.buffered import BufferedIngest
from meterbook.enforcement.caps import Cap, UsageCaps
from meterbook.errors import BufferFullError
from meterbook.events import Event

logger = logging.getLogger(__name__)

STATUS = 402
REASON = "Payment Required"


class Enforcement:
    """Lets through whom `caps` does not know to be capped, and records each request as an event of `metric`.

    Never waits: the caps are local, and where the buffer has no room the request is served and not recorded, with a
    warning in the log.
    """

    def __init__(self, caps: UsageCaps, buffer: BufferedIngest, *, metric: str) -> None:
        self.caps = caps
        self.buffer = buffer
        self.metric = metric

    def admit(self, customer: str | None) -> Cap | None:
        """Return why the customer's request must be refused; None: it was recorded and may go on.

        A request without a customer (None) is nobody's usage: it goes on and is not recorded.
        """
        if customer is None:
            return None
        cap = self.caps.find_cap(customer)
        if cap is None:
            self._record(customer)
        return cap

    def _record(self, customer: str) -> None:
        try:
            is_taken = self.buffer.add(Event(customer=customer, metric=self.metric), timeout=0)
        except (BufferFullError, ValueError, RuntimeError, OSError) as failure:
            logger.warning("A request of %r was served and not recorded: %s", customer, failure)
        else:
            if not is_taken:
                logger.warning("A request of %r was served and not recorded: the buffer is full.", customer)


def refusal_body(cap: Cap) -> dict[str, Any]:
    """Return the body of the answer 402, in the shape of the server's own errors."""
    return {
        "code": "usage_cap_exceeded",
        "message": f"The usage of {cap.metric} has reached {cap.threshold_value:f}; it starts anew at {_until(cap)}.",
        "errors": [],
        "metric": cap.metric,
        "threshold_code": cap.threshold_code,
        "threshold_value": f"{cap.threshold_value:f}",
        "reset_at": _until(cap),
    }


def refusal_content(cap: Cap) -> bytes:
    return json.dumps(refusal_body(cap)).encode()


def _until(cap: Cap) -> str:
    return cap.until.isoformat().replace("+00:00", "Z")
