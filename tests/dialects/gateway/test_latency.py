"""Latency buckets and the percentiles that are read from them, against the latencies themselves."""

from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.dialects.gateway.latency import (
    MAX_BUCKET,
    MAX_LATENCY_MS,
    MIN_BUCKET,
    RELATIVE_ERROR,
    bucket_bounds,
    bucket_value,
    find_bucket,
    find_percentile,
)

latencies = st.decimals(min_value=0, max_value=MAX_LATENCY_MS, places=6) | st.decimals(
    min_value=0, max_value=2000, places=3
)


class TestBuckets:
    # By logarithms of a pocket calculator: ln 42 / ln (1.02 / 0.98) = 93.43, and so on.
    @pytest.mark.parametrize(
        ("latency", "bucket"), [("1", 0), ("1.0001", 1), ("42", 94), ("100", 116), ("1000", 173), ("0.5", -17)]
    )
    def test_are_numbered_by_the_logarithm(self, latency: str, bucket: int) -> None:
        assert find_bucket(Decimal(latency)) == bucket

    @settings(deadline=None)
    @given(latencies)
    def test_hold_what_falls_in_them(self, latency: Decimal) -> None:
        lower, upper = bucket_bounds(find_bucket(latency))

        assert lower < latency <= upper or latency == lower == 0

    def test_follow_one_another_without_a_gap(self) -> None:
        for bucket in range(MIN_BUCKET + 1, MAX_BUCKET + 1):
            assert bucket_bounds(bucket)[0] == bucket_bounds(bucket - 1)[1]
            assert find_bucket(bucket_bounds(bucket)[1]) == bucket

    def test_reach_from_nothing_to_the_greatest_latency(self) -> None:
        assert find_bucket(Decimal(0)) == MIN_BUCKET
        assert bucket_bounds(MIN_BUCKET)[1] < Decimal("0.0011")
        assert find_bucket(MAX_LATENCY_MS) == MAX_BUCKET

    def test_stand_for_a_latency_close_to_all_they_hold(self) -> None:
        for bucket in range(MIN_BUCKET + 1, MAX_BUCKET + 1):
            value = bucket_value(bucket)
            for edge in bucket_bounds(bucket):
                assert abs(value - edge) <= edge * RELATIVE_ERROR * Decimal("1.0000001")


class TestPercentiles:
    @settings(deadline=None)
    @given(st.lists(latencies, min_size=1, max_size=200), st.sampled_from(["1", "50", "90", "95", "99", "99.9", "100"]))
    def test_are_within_the_stated_error_of_the_latency_of_that_rank(self, all_: list[Decimal], percent: str) -> None:
        found = find_percentile(Counter(map(find_bucket, all_)), Decimal(percent))

        # The nearest rank, by whole numbers: percent may have one decimal.
        tenths = int(Decimal(percent) * 10)
        exact = sorted(all_)[(tenths * len(all_) + 999) // 1000 - 1]
        assert found is not None
        assert abs(found - exact) <= max(exact * RELATIVE_ERROR * Decimal("1.0000001"), Decimal("0.0011"))

    def test_of_merged_counts_are_those_of_all_latencies(self) -> None:
        morning, evening = Counter({3: 5, 90: 1}), Counter({3: 1, 100: 3})

        assert find_percentile(morning + evening, Decimal(50)) == bucket_value(3)
        assert find_percentile(morning + evening, Decimal(70)) == bucket_value(90)
        assert find_percentile(morning + evening, Decimal(71)) == bucket_value(100)

    def test_of_nothing_are_none(self) -> None:
        assert find_percentile({}, Decimal(50)) is None
        assert find_percentile({3: 0}, Decimal(50)) is None
