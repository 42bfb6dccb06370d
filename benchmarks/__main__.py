"""`python -m benchmarks [--quick] [--only ingest,reads] [--output FILE]`, or `--markdown RESULTS` to render a run."""

from __future__ import annotations

import argparse
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import django
import msgspec

from benchmarks.installation import CannotMeasure, temporary_installation
from benchmarks.load import LoadFailed
from benchmarks.report import Results, as_markdown, as_text

RESULTS = Path(__file__).parent / "results"
# Half of it is usual; a machine that needs all of it has told enough.
MOST_SECONDS = 1200
PARTS = ("ingest", "together", "forward", "cleanup", "middleware", "alerts", "invoices", "reads", "reports")


def main() -> int:
    arguments = _read_arguments()
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _end)  # so that the servers stop and the temporary directory goes
    if arguments.markdown is not None:
        results = msgspec.json.decode(arguments.markdown.read_bytes(), type=Results)
        print(as_markdown(results), end="")
        return 0
    signal.alarm(MOST_SECONDS)
    try:
        results = _measure(frozenset(arguments.only or PARTS), is_quick=arguments.quick)
    except (CannotMeasure, LoadFailed) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    print(f"\n{as_text(results)}")
    output = arguments.output or RESULTS / f"{results.date[:10]}.local.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    print(f"\nwritten to {output}; as Markdown: python -m benchmarks --markdown {output}")
    return 0 if all(required.is_met for required in results.requirements) else 2


def _measure(parts: frozenset[str], *, is_quick: bool) -> Results:
    with temporary_installation() as installation:
        django.setup()
        from benchmarks import run  # needs Django's settings, which need the servers' addresses

        return run.measure(installation, parts, is_quick=is_quick, now=datetime.now(UTC))


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", type=_read_parts, help=f"some parts, by comma: {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="about a minute: shorter runs, a tenth of the history")
    parser.add_argument("--output", type=Path, help="where to write the results (JSON)")
    parser.add_argument("--markdown", type=Path, metavar="RESULTS", help="only print the tables of an earlier run")
    return parser.parse_args()


def _read_parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return parts


if __name__ == "__main__":
    sys.exit(main())
