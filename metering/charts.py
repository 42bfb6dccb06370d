"""The geometry of charts: numbers in, shapes out. The templates only print what is computed here.

Across, a plot is as wide as its place on the page, so every x is a percentage of the plot and lines live in a
stretched view box; down, it has fixed pixels. All arithmetic is Decimal: a quantity never passes through a float.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import reduce
from typing import Any

from common.numbers import exact_text, readable_text, short_text
from metering.domain import EXACT

PLOT_HEIGHT = 240
TOP_ROOM = 14  # so that the topmost label and bar are not cut off
AXIS_HEIGHT = 26
# Lines are drawn in a box this wide and stretched to the plot; strokes keep their width.
STRETCHED_WIDTH = Decimal(1000)
BAR_SHARE = Decimal("0.78")  # of its slot; the rest is the gap
THINNEST_BAR = Decimal("0.5")  # pixels: a small value is still something
Y_TICK_COUNTS = (4, 5, 6)
X_TICK_COUNT = 7
NICE_STEPS = (Decimal(1), Decimal(2), Decimal("2.5"), Decimal(5), Decimal(10))
# Colours of the stylesheet: series-1 … series-7, and one for everything else together.
SERIES_COUNT = 7
REST = "rest"

SPARK_HEIGHT = 40
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class ChartLine:
    """One line or stack layer: a value per bucket. `colour` names one of the stylesheet's series."""

    label: str
    colour: str
    values: Sequence[Decimal]


@dataclass(frozen=True, slots=True)
class Bucket:
    """One place on the time axis: a short label for the axis and a full one for the tip."""

    tick: str
    title: str
    # Why it holds less than a whole bucket: "so far" while it fills, "in part" where the range cuts it; else empty.
    caveat: str = ""

    @property
    def is_partial(self) -> bool:
        return bool(self.caveat)


@dataclass(frozen=True, slots=True)
class YTick:
    y: str
    text: str
    is_base: bool


@dataclass(frozen=True, slots=True)
class XTick:
    x: str
    text: str
    anchor: str
    is_minor: bool


@dataclass(frozen=True, slots=True)
class Bar:
    x: str
    width: str
    y: str
    height: str
    is_partial: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """The bars of one line."""

    colour: str
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class Stroke:
    path: str
    colour: str
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything `metering/chart.html` prints. `hover` is what chart.js needs to show a tip."""

    title: str
    summary: str
    lines: Sequence[ChartLine]
    y_ticks: list[YTick]
    x_ticks: list[XTick]
    hover: dict[str, Any]
    layers: list[Layer] = field(default_factory=list)
    strokes: list[Stroke] = field(default_factory=list)
    areas: list[Stroke] = field(default_factory=list)
    is_empty: bool = False
    plot_height: int = PLOT_HEIGHT
    axis_y: int = PLOT_HEIGHT + 18
    height: int = PLOT_HEIGHT + AXIS_HEIGHT

    @property
    def has_legend(self) -> bool:
        return len(self.lines) > 1


@dataclass(frozen=True, slots=True)
class Spark:
    """A line without axes; `summary` says in words what it shows."""

    line: str
    # The way into a bucket that is still filling; empty where the last one is complete.
    partial_line: str
    area: str
    summary: str
    # Whether any value differs from zero.
    is_raised: bool
    view_box: str = f"0 0 {STRETCHED_WIDTH} {SPARK_HEIGHT}"


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to heights: `low` at the bottom of the plot, `high` near its top."""

    low: Decimal
    high: Decimal
    step: Decimal
    height: int = PLOT_HEIGHT
    top: int = TOP_ROOM

    def y(self, value: Decimal) -> Decimal:
        return self.height - (value - self.low) / (self.high - self.low) * (self.height - self.top)

    def ticks(self) -> list[YTick]:
        count = int((self.high - self.low) / self.step) + 1
        values = (self.low + self.step * place for place in range(count))
        return [YTick(_number(self.y(value)), short_text(value), value == 0) for value in values]


def stacked_bars(*, title: str, summary: str, buckets: Sequence[Bucket], lines: Sequence[ChartLine]) -> Chart:
    """Draw one bar per bucket; several lines stack. Values must not be negative unless there is one line."""
    totals = [total_of(column) for column in zip(*(line.values for line in lines), strict=True)]
    scale = fit_scale(totals)
    return Chart(
        title=title,
        summary=summary,
        lines=lines,
        y_ticks=scale.ticks(),
        x_ticks=list(_x_ticks(buckets)),
        hover=_hover(buckets, lines, totals if len(lines) > 1 else None),
        layers=list(_layers(buckets, lines, scale)),
        is_empty=not any(totals),
    )


def multi_line(*, title: str, summary: str, buckets: Sequence[Bucket], lines: Sequence[ChartLine]) -> Chart:
    """Draw one line per entry on a common scale. For values that must not be added up, and for negative ones."""
    scale = fit_scale([value for line in lines for value in line.values])
    strokes = [stroke for line in lines for stroke in _strokes(buckets, line, scale)]
    return Chart(
        title=title,
        summary=summary,
        lines=lines,
        y_ticks=scale.ticks(),
        x_ticks=list(_x_ticks(buckets)),
        hover=_hover(buckets, lines, None),
        strokes=strokes,
        areas=[_area(lines[0], scale)] if len(lines) == 1 else [],
        is_empty=not any(value for line in lines for value in line.values),
    )


def spark_line(values: Sequence[Decimal], *, is_last_partial: bool, summary: str) -> Spark:
    """Draw the values edge to edge; a flat line of zeros lies on the ground."""
    low, high = min((ZERO, *values)), max((ZERO, *values))
    scale = Scale(low=low, high=high if high > low else low + 1, step=Decimal(1), height=SPARK_HEIGHT, top=3)
    gap = STRETCHED_WIDTH / max(len(values) - 1, 1)
    points = [(gap * place, scale.y(value)) for place, value in enumerate(values)]
    is_split = is_last_partial and len(points) > 2
    ground = _number(scale.y(ZERO))
    return Spark(
        line=_path(points[:-1] if is_split else points),
        partial_line=_path(points[-2:]) if is_split else "",
        area=f"{_path(points)}V{ground}H0Z" if points else "",
        summary=summary,
        is_raised=any(values),
    )


def total_of(values: Iterable[Decimal]) -> Decimal:
    """Add up exactly: the default context would round wide sums."""
    return reduce(EXACT.add, values, ZERO)


def fit_scale(values: Sequence[Decimal]) -> Scale:
    """Return a scale with round ticks that holds zero and every value, and wastes the least height."""
    low, high = min((ZERO, *values)), max((ZERO, *values))
    if low == high:
        return Scale(low=ZERO, high=Decimal(1), step=Decimal(1))
    is_whole = all(value == value.to_integral_value() for value in values)
    steps = (_nice_step((high - low) / count, is_whole=is_whole) for count in Y_TICK_COUNTS)
    return min((_scale_of(low, high, step) for step in steps), key=lambda scale: scale.high - scale.low)


def _scale_of(low: Decimal, high: Decimal, step: Decimal) -> Scale:
    floor = (low / step).to_integral_value(ROUND_FLOOR) * step
    ceiling = (high / step).to_integral_value(ROUND_CEILING) * step
    return Scale(low=floor, high=ceiling, step=step)


def _nice_step(rough: Decimal, *, is_whole: bool) -> Decimal:
    """Return the next round step: 1, 2, 2.5, 5 times a power of ten; whole for whole values."""
    power = Decimal(1).scaleb(rough.adjusted())
    step = next(nice * power for nice in NICE_STEPS if nice * power >= rough)
    return step.to_integral_value(ROUND_CEILING) if is_whole else step


def _layers(buckets: Sequence[Bucket], lines: Sequence[ChartLine], scale: Scale) -> Iterator[Layer]:
    """Yield the bars of each line, standing on those of the lines before it."""
    slot = Decimal(100) / max(len(buckets), 1)
    width = _percent(slot * BAR_SHARE)
    reached = [ZERO] * len(buckets)
    for line in lines:
        bars = []
        for place, value in enumerate(line.values):
            if value == 0:
                continue
            low, high = sorted((reached[place], reached[place] + value))
            bars.append(
                Bar(
                    x=_percent(slot * (place + (1 - BAR_SHARE) / 2)),
                    width=width,
                    y=_number(scale.y(high)),
                    height=_number(max(scale.y(low) - scale.y(high), THINNEST_BAR)),
                    is_partial=buckets[place].is_partial,
                )
            )
            reached[place] += value
        yield Layer(line.colour, bars)


def _strokes(buckets: Sequence[Bucket], line: ChartLine, scale: Scale) -> Iterator[Stroke]:
    """Yield the line; the way from or to an incomplete bucket, which only the outer two can be, is a dashed stroke."""
    points = _slot_points(line, scale)
    if len(points) < 3:
        yield Stroke(_path(points), line.colour)
        return
    first, last = int(buckets[0].is_partial), len(points) - int(buckets[-1].is_partial)
    yield Stroke(_path(points[first:last]), line.colour)
    if first:
        yield Stroke(_path(points[:2]), line.colour, is_partial=True)
    if last < len(points):
        yield Stroke(_path(points[-2:]), line.colour, is_partial=True)


def _area(line: ChartLine, scale: Scale) -> Stroke:
    points = _slot_points(line, scale)
    ground = _number(scale.y(ZERO))
    return Stroke(f"{_path(points)}V{ground}H{_number(points[0][0])}Z", line.colour)


def _slot_points(line: ChartLine, scale: Scale) -> list[tuple[Decimal, Decimal]]:
    slot = STRETCHED_WIDTH / len(line.values)
    return [(slot * (place + Decimal("0.5")), scale.y(value)) for place, value in enumerate(line.values)]


def _path(points: Sequence[tuple[Decimal, Decimal]]) -> str:
    if len(points) == 1:
        # A path of one point draws nothing: a zero-length line with round caps is a dot.
        points = [*points, points[0]]
    steps = (f"{_number(x)} {_number(y)}" for x, y in points)
    return "M" + "L".join(steps) if points else ""


def _x_ticks(buckets: Sequence[Bucket]) -> Iterator[XTick]:
    """Yield evenly spread labels; every second one may be left out on a narrow screen."""
    every = -(-len(buckets) // X_TICK_COUNT) or 1
    slot = Decimal(100) / max(len(buckets), 1)
    for number, place in enumerate(range(0, len(buckets), every)):
        x = slot * (place + Decimal("0.5"))
        anchor = "start" if x < 3 else "end" if x > 97 else "middle"
        at = ZERO if anchor == "start" else Decimal(100) if anchor == "end" else x
        yield XTick(_percent(at), buckets[place].tick, anchor, is_minor=number % 2 == 1)


def _hover(buckets: Sequence[Bucket], lines: Sequence[ChartLine], totals: Sequence[Decimal] | None) -> dict[str, Any]:
    return {
        "buckets": [f"{bucket.title} ({bucket.caveat})" if bucket.caveat else bucket.title for bucket in buckets],
        "lines": [
            {"label": line.label, "colour": line.colour, "values": [readable_text(value) for value in line.values]}
            for line in lines
        ],
        "totals": [readable_text(total) for total in totals] if totals is not None else None,
    }


def _percent(value: Decimal) -> str:
    return f"{exact_text(round(value, 3))}%"


def _number(value: Decimal) -> str:
    return exact_text(round(value, 2))
