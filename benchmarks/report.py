"""What was measured and what was required, and the same two lists as text, Markdown and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import msgspec

Figure = int | float | str
TableMaker = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


class Measurement(msgspec.Struct):
    """One line of the table: figures by their column's name. Lines of one part have much the same columns."""

    part: str
    name: str
    figures: dict[str, Figure]


class Requirement(msgspec.Struct):
    """A promise and what became of it on this machine."""

    name: str
    measured: float
    limit: float
    # True: at most the limit; False: at least.
    is_upper_limit: bool

    @property
    def is_met(self) -> bool:
        return self.measured <= self.limit if self.is_upper_limit else self.measured >= self.limit

    @property
    def verdict(self) -> str:
        return "PASS" if self.is_met else "FAIL"


class Results(msgspec.Struct):
    date: str
    machine: dict[str, Figure]
    durability: dict[str, str]
    measurements: list[Measurement] = []
    requirements: list[Requirement] = []
    seconds: float = 0.0
    is_quick: bool = False

    def add(self, measurement: Measurement) -> None:
        """Keep a line, and print it at once: a run takes minutes."""
        self.measurements.append(measurement)
        figures = "  ".join(f"{name} {_text(figure)}" for name, figure in measurement.figures.items())
        print(f"{measurement.part:<26} {measurement.name:<48} {figures}", flush=True)

    def require(
        self, name: str, measured: Figure, *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        limit = at_most if at_most is not None else at_least
        assert limit is not None
        requirement = Requirement(name, float(measured), limit, at_most is not None)
        self.requirements.append(requirement)
        print(f"{'':26} {requirement.verdict}: {name}", flush=True)

    def require_share(self, name: str, line: Measurement, *, of: str, at_least: float) -> None:
        """Require that the line reaches so large a share of the ceiling named `of`."""
        ceiling = self.find("ceiling", of)["events/s"]
        share = float(line.figures["events/s"]) / float(ceiling)
        self.require(f"{name}: share of the ceiling", share, at_least=at_least)

    def find(self, part: str, name: str) -> dict[str, Figure]:
        """Return the figures of a line. Raises `StopIteration` if it was not measured."""
        return next(line.figures for line in self.measurements if (line.part, line.name) == (part, name))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share of all do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def latencies(values: Sequence[float]) -> dict[str, Figure]:
    return {"p50 ms": round(percentile(values, 0.5), 2), "p99 ms": round(percentile(values, 0.99), 2)}


# --- rendering ------------------------------------------------------------------------------------------------


def as_text(results: Results) -> str:
    return "\n\n".join(_sections(results, _text_table))


def as_markdown(results: Results) -> str:
    return "\n\n".join(_sections(results, _markdown_table)) + "\n"


def _sections(results: Results, table: TableMaker) -> Iterable[str]:
    yield table(["machine", ""], [[name, _text(value)] for name, value in _facts(results).items()])
    for part, group in groupby(results.measurements, key=lambda line: line.part):
        lines = list(group)
        columns = list(dict.fromkeys(name for line in lines for name in line.figures))
        yield table(
            [part, *columns],
            [[line.name, *(_text(line.figures.get(column, "")) for column in columns)] for line in lines],
        )
    if results.requirements:
        yield table(
            ["required", "measured", "limit", ""],
            [
                [
                    required.name,
                    _text(required.measured),
                    f"{'≤' if required.is_upper_limit else '≥'} {_text(required.limit)}",
                    required.verdict,
                ]
                for required in results.requirements
            ],
        )


def _facts(results: Results) -> dict[str, Figure]:
    took = f"{results.seconds:.0f} s" + (" (--quick: shorter runs, fewer events)" if results.is_quick else "")
    return {"date": results.date, **results.machine, **results.durability, "the whole run took": took}


def _text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, ["-" * width for width in widths], *rows]
    )


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def _text(figure: Figure) -> str:
    if isinstance(figure, str):
        return figure
    if isinstance(figure, int) or abs(figure) >= 1000:
        return f"{figure:,.0f}"
    return f"{figure:.3g}" if abs(figure) < 1 else f"{figure:.2f}".rstrip("0").rstrip(".")
