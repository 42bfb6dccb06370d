"""Latencies as a logarithmic histogram: which bucket a latency falls in, and percentiles read from bucket counts.

The buckets are those of DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees", VLDB 2019): bucket i holds the latencies in `(g^(i-1), g^i]` with g = (1 + e) / (1 - e).
Counts of buckets add up over routes, customers and hours, so they are an ordinary count metric with the bucket as a
dimension, and a percentile of any selection is exact up to the relative error e. No state, no clock, no floats.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal

# A percentile differs from the latency of that rank by at most this part of it (and never more than a microsecond
# below the lowest bound).
RELATIVE_ERROR = Decimal("0.02")
MAX_LATENCY_MS = Decimal(7 * 24 * 3600 * 1000)

_EXACT = Context(prec=50, rounding=ROUND_HALF_EVEN)
_GAMMA = _EXACT.divide(1 + RELATIVE_ERROR, 1 - RELATIVE_ERROR)
# The lowest bucket holds everything up to its bound, about a microsecond; nothing that is metered is faster.
MIN_BUCKET = -172
MAX_BUCKET = 506

# The upper bounds of the buckets, in milliseconds, in order.
_BOUNDS = tuple(_EXACT.power(_GAMMA, bucket) for bucket in range(MIN_BUCKET, MAX_BUCKET + 1))


def find_bucket(latency_ms: Decimal) -> int:
    """Return the bucket of a latency from 0 to `MAX_LATENCY_MS` milliseconds."""
    return MIN_BUCKET + bisect_left(_BOUNDS, latency_ms)


def bucket_bounds(bucket: int) -> tuple[Decimal, Decimal]:
    """Return the latencies in milliseconds that the bucket holds: more than the first, up to the second."""
    upper = _BOUNDS[bucket - MIN_BUCKET]
    return (Decimal(0) if bucket == MIN_BUCKET else _BOUNDS[bucket - MIN_BUCKET - 1]), upper


def bucket_value(bucket: int) -> Decimal:
    """Return the latency in milliseconds that stands for the bucket: within `RELATIVE_ERROR` of all that it holds."""
    return _EXACT.divide(2 * _BOUNDS[bucket - MIN_BUCKET], _GAMMA + 1)


def find_percentile(counts: Mapping[int, int], percent: Decimal) -> Decimal | None:
    """Return the latency in milliseconds that `percent` of the requests (0 < percent ≤ 100) do not exceed.

    `counts` has the number of requests of each bucket. The rank is the nearest one: of n latencies in ascending
    order, number ⌈percent · n / 100⌉. None without requests.
    """
    total = sum(counts.values())
    if not total:
        return None
    rank = (percent * total / 100).to_integral_value(rounding=ROUND_CEILING)
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return bucket_value(bucket)
    raise AssertionError("a rank of at most the total is reached")
