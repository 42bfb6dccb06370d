"""The geometry of charts: every shape lies where its number says."""

from decimal import Decimal

import pytest

from metering.charts import PLOT_HEIGHT, TOP_ROOM, Bucket, ChartLine, fit_scale, multi_line, spark_line, stacked_bars

BUCKETS = [Bucket("1 Nov", "Sun 1 Nov 2026"), Bucket("2 Nov", "Mon 2 Nov 2026", "so far")]


def decimals(*values: str) -> list[Decimal]:
    return [Decimal(value) for value in values]


class TestScale:
    @pytest.mark.parametrize(
        ("values", "low", "high", "step"),
        [
            (["0"], "0", "1", "1"),
            (["7"], "0", "8", "2"),
            (["1000"], "0", "1000", "250"),
            (["1013"], "0", "1200", "200"),
            (["0.03"], "0", "0.03", "0.01"),
            (["-5", "20"], "-5", "20", "5"),
            (["1e30"], "0", "1e30", "2.5e29"),
            (["-3"], "-3", "0", "1"),
        ],
    )
    def test_ticks_are_round_and_hold_every_value(self, values: list[str], low: str, high: str, step: str) -> None:
        scale = fit_scale(decimals(*values))

        assert (scale.low, scale.high, scale.step) == tuple(decimals(low, high, step))

    def test_whole_values_have_whole_ticks(self) -> None:
        assert fit_scale(decimals("3")).step == 1

    def test_the_lowest_value_is_at_the_bottom_and_the_highest_below_the_top_room(self) -> None:
        scale = fit_scale(decimals("0", "1000"))

        assert (scale.y(Decimal(0)), scale.y(Decimal(1000))) == (Decimal(PLOT_HEIGHT), Decimal(TOP_ROOM))


class TestStackedBars:
    def test_layers_stand_on_each_other(self) -> None:
        lines = [ChartLine("eu", "1", decimals("600", "0")), ChartLine("us", "2", decimals("400", "100"))]

        chart = stacked_bars(title="t", summary="s", buckets=BUCKETS, lines=lines)

        eu_layer, us_layer = chart.layers
        (eu,), (us, us_later) = eu_layer.bars, us_layer.bars
        assert Decimal(us.y) + Decimal(us.height) == Decimal(eu.y)
        assert Decimal(eu.y) + Decimal(eu.height) == PLOT_HEIGHT
        assert (us.y, us_layer.colour) == (str(TOP_ROOM), "2")
        assert (eu.x, us_later.x) == ("5.5%", "55.5%")
        assert [bar.is_partial for bar in us_layer.bars] == [False, True]

    def test_a_single_line_may_go_below_zero(self) -> None:
        chart = stacked_bars(title="t", summary="s", buckets=BUCKETS, lines=[ChartLine("a", "1", decimals("5", "-5"))])

        above, below = chart.layers[0].bars
        assert Decimal(above.y) + Decimal(above.height) == Decimal(below.y)

    def test_tip_holds_each_line_and_their_total(self) -> None:
        lines = [ChartLine("eu", "1", decimals("1600", "0")), ChartLine("us", "2", decimals("400.5", "1"))]

        hover = stacked_bars(title="t", summary="s", buckets=BUCKETS, lines=lines).hover

        assert hover["buckets"] == ["Sun 1 Nov 2026", "Mon 2 Nov 2026 (so far)"]
        assert [line["values"] for line in hover["lines"]] == [["1\u202f600", "0"], ["400.5", "1"]]
        assert hover["totals"] == ["2\u202f000.5", "1"]

    def test_nothing_but_zeros_is_empty(self) -> None:
        chart = stacked_bars(title="t", summary="s", buckets=BUCKETS, lines=[ChartLine("a", "1", decimals("0", "0"))])

        assert chart.is_empty
        assert chart.layers[0].bars == []


class TestMultiLine:
    def test_what_must_not_be_added_up_has_no_total(self) -> None:
        lines = [ChartLine("eu", "1", decimals("1", "2")), ChartLine("us", "2", decimals("3", "4"))]

        assert multi_line(title="t", summary="s", buckets=BUCKETS, lines=lines).hover["totals"] is None

    def test_the_way_into_a_filling_bucket_is_dashed(self) -> None:
        buckets = [Bucket("1", "1"), Bucket("2", "2"), Bucket("3", "3", "so far")]

        chart = multi_line(
            title="t", summary="s", buckets=buckets, lines=[ChartLine("a", "1", decimals("0", "10", "5"))]
        )

        whole, filling = chart.strokes
        assert (whole.path, whole.is_partial) == ("M166.67 240L500 14", False)
        assert (filling.path, filling.is_partial) == ("M500 14L833.33 127", True)

    def test_labels_of_many_buckets_are_few(self) -> None:
        buckets = [Bucket(str(number), str(number)) for number in range(365)]

        chart = multi_line(title="t", summary="s", buckets=buckets, lines=[ChartLine("a", "1", [Decimal(1)] * 365)])

        assert len(chart.x_ticks) == 7
        assert [tick.is_minor for tick in chart.x_ticks] == [False, True] * 3 + [False]


class TestSpark:
    def test_a_flat_line_of_zeros_lies_on_the_ground(self) -> None:
        spark = spark_line(decimals("0", "0"), is_last_partial=False, summary="s")

        assert spark.line == "M0 40L1000 40"
        assert not spark.is_raised

    def test_the_greatest_value_is_near_the_top(self) -> None:
        spark = spark_line(decimals("0", "10", "5"), is_last_partial=True, summary="s")

        assert (spark.line, spark.partial_line) == ("M0 40L500 3", "M500 3L1000 21.5")
        assert spark.is_raised

    def test_one_value_is_a_dot(self) -> None:
        assert spark_line(decimals("3"), is_last_partial=False, summary="s").line == "M0 3L0 3"
