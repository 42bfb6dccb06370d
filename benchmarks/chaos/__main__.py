"""`python -m benchmarks.chaos [--rounds 20] [--seed N] [--victims redis,web]`; status 1 if a guarantee was broken."""

from __future__ import annotations

import argparse
import secrets
import sys
from itertools import cycle, islice

from benchmarks.chaos.experiment import Report, run_experiment
from benchmarks.chaos.instance import InstanceFailed
from benchmarks.chaos.victims import VICTIMS


def main() -> int:
    arguments = _read_arguments()
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(10**6)
    print(f"{arguments.rounds} rounds, seed {seed}: starting an installation …", flush=True)
    try:
        report = run_experiment(
            rounds=arguments.rounds,
            seed=seed,
            victims=arguments.victims and list(islice(cycle(arguments.victims), arguments.rounds)),
            say=lambda line: print(line, flush=True),
        )
    except (InstanceFailed, TimeoutError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 1
    print(f"\n{as_text(report)}")
    return 1 if report.verdict.faults else 0


def as_text(report: Report) -> str:
    """Return the summary: how each kind of victim recovered, what was sent, and what was found."""
    verdict = report.verdict
    lines = [f"{'killed':<22}{'times':>6}{'answered after':>18}{'rolled up after':>18}"]
    for victim in VICTIMS:
        hit = [each for each in report.rounds if victim in each.victims]
        if hit:
            acknowledged = max(each.acknowledged_seconds for each in hit)
            rolled = max(each.rolled_seconds for each in hit)
            lines.append(f"{victim:<22}{len(hit):>6}{f'≤ {acknowledged:.1f} s':>18}{f'≤ {rolled:.1f} s':>18}")
    lines += [
        "",
        f"sync events acknowledged    {verdict.sync_acknowledged:>9,}",
        f"async events acknowledged   {verdict.async_acknowledged:>9,}",
        f"async events lost           {verdict.async_lost:>9,}",
        f"events stored               {verdict.present:>9,}",
        f"events voided               {verdict.voided:>9,}",
        f"alerts told                 {verdict.alerts:>9,}",
        f"requests repeated           {verdict.retries:>9,}",
        f"settled in                  {report.settle_seconds:>7.1f} s",
        "",
        *(f"BROKEN: {fault}" for fault in verdict.faults),
    ]
    if not verdict.faults:
        lines.append(
            "Every acknowledged sync event is there once, usage equals the count by hand, rollups verify clean."
        )
    return "\n".join(lines)


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, help="repeats a run's choices, though not its timing")
    parser.add_argument("--victims", type=_read_victims, help=f"only these, in turn, by comma: {', '.join(VICTIMS)}")
    return parser.parse_args()


def _read_victims(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in VICTIMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such victim: {', '.join(unknown)}; there are {', '.join(VICTIMS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
