"""The experiment: clients send, rounds kill, everything settles, the books are compared."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from benchmarks.chaos.instance import Instance, InstanceFailed, temporary_instance
from benchmarks.chaos.senders import EVENT_TYPE, Client, Sender, Voider
from benchmarks.chaos.verdict import JOBS_PER_ALERT, Tenant, Verdict, judge
from benchmarks.chaos.victims import choose_victims, kill, restart_if_killed

SYNC_SENDERS, ASYNC_SENDERS = 3, 2
# How long clients send undisturbed before a kill.
QUIET_SECONDS = (0.3, 2.0)
# In some rounds something else dies while the first still recovers.
SECOND_KILL_CHANCE = 0.25
RECOVERY_SECONDS = 90.0
SETTLE_SECONDS = 120.0

METRICS = (
    {"code": "work_seconds", "aggregation": "sum"},
    {
        "code": "jobs",
        "aggregation": "count",
        "thresholds": [{"code": "every_so_many", "value": str(JOBS_PER_ALERT), "recurring": True}],
    },
    {"code": "longest", "aggregation": "max"},
    {"code": "people", "aggregation": "count_unique", "value_property": "person"},
)


@dataclass(frozen=True, slots=True)
class Round:
    """One round: what was killed, and how long until every client was answered and until all was rolled up again."""

    number: int
    victims: tuple[str, ...]
    acknowledged_seconds: float
    rolled_seconds: float
    acknowledged_events: int


@dataclass(slots=True)
class Report:
    seed: int
    rounds: list[Round] = field(default_factory=list)
    settle_seconds: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)


def run_experiment(
    *,
    rounds: int,
    seed: int,
    say: Callable[[str], None],
    victims: Sequence[str] | None = None,
    quiet_seconds: tuple[float, float] = QUIET_SECONDS,
) -> Report:
    """Run the rounds on an installation of their own; `victims` names what each kills instead of drawing lots."""
    chance = random.Random(seed)
    order = list(victims) if victims is not None else choose_victims(rounds, chance)
    with temporary_instance() as instance:
        tenant = _create_tenant(instance)
        experiment = _Experiment(instance, tenant, seed, chance, quiet_seconds)
        report = Report(seed)
        for number, victim in enumerate(order, start=1):
            finished = experiment.run_round(number, victim)
            report.rounds.append(finished)
            say(describe_round(finished, len(order)))
        report.settle_seconds = experiment.settle()
        say(f"settled in {report.settle_seconds:.1f} s; comparing the books …")
        report.verdict = experiment.judge()
    return report


def describe_round(finished: Round, count: int) -> str:
    return (
        f"round {finished.number:>2}/{count}  killed {' + '.join(finished.victims):<28}"
        f" every client answered after {finished.acknowledged_seconds:4.1f} s,"
        f" new events rolled up after {finished.rolled_seconds:4.1f} s;"
        f" {finished.acknowledged_events:,} acknowledged so far"
    )


class _Experiment:
    def __init__(
        self,
        instance: Instance,
        tenant: Tenant,
        seed: int,
        chance: random.Random,
        quiet_seconds: tuple[float, float],
    ) -> None:
        self._instance = instance
        self._tenant = tenant
        self._chance = chance
        self._quiet_seconds = quiet_seconds
        self._redis_kills: list[float] = []
        names = [("sync", number) for number in range(SYNC_SENDERS)]
        names += [("async", number) for number in range(ASYNC_SENDERS)]
        self._senders = [
            Sender(
                port=instance.port,
                api_key=tenant.api_key,
                name=f"{kind}-{number}",
                seed=seed,
                is_async=kind == "async",
            )
            for kind, number in names
        ]
        self._sync, self._async = self._senders[:SYNC_SENDERS], self._senders[SYNC_SENDERS:]
        self._voider = Voider(port=instance.port, api_key=tenant.api_key, seed=seed, books=self._sync[0].books)
        self._clients: list[Sender | Voider] = [*self._senders, self._voider]
        for client in self._clients:
            client.start()

    def run_round(self, number: int, victim: str) -> Round:
        time.sleep(self._chance.uniform(*self._quiet_seconds))
        tree = self._instance.tree()
        killed = [victim, *(self._second_victim(victim))]
        for name in killed:
            self._kill(name)
        started, killed_at = time.monotonic(), datetime.now(UTC)
        restart_if_killed(self._instance, killed, tree)
        self._instance.wait_until(
            "acknowledging events again", lambda: self._has_acknowledged_since(started), RECOVERY_SECONDS
        )
        acknowledged = time.monotonic()
        self._instance.wait_until("rolling up again", lambda: self._has_rolled_since(killed_at), RECOVERY_SECONDS)
        self._instance.wait_until("ready again", self._instance.is_ready, RECOVERY_SECONDS)
        return Round(
            number=number,
            victims=tuple(killed),
            acknowledged_seconds=acknowledged - started,
            rolled_seconds=time.monotonic() - started,
            acknowledged_events=sum(
                len(each.keys) for sender in self._senders for each in list(sender.books.acknowledged)
            ),
        )

    def _second_victim(self, first: str) -> list[str]:
        if first == "everything" or self._chance.random() > SECOND_KILL_CHANCE:
            return []
        return [name for name in choose_victims(2, self._chance) if name not in {first, "everything"}][:1]

    def _kill(self, name: str) -> None:
        if name in {"redis", "everything"}:
            # Noted before: an acknowledgement that is read in between was given before the kill.
            self._redis_kills.append(time.monotonic())
        kill(self._instance, name, self._chance)

    def _has_acknowledged_since(self, started: float) -> bool:
        """Tell whether every client was answered: web and PostgreSQL are back, and for the async ones Redis."""
        return all(sender.books.acknowledged and sender.books.acknowledged[-1].at > started for sender in self._senders)

    def _has_rolled_since(self, moment: datetime) -> bool:
        """Tell whether the worker does its work: its sign of life is only as fresh as its last heartbeat."""
        return self._instance.holds(
            "SELECT FROM metering_ingestbatch WHERE received_at > %s AND state = 1 LIMIT 1", moment
        )

    def settle(self) -> float:
        """Stop the clients and wait until nothing waits any more; return how long that took."""
        started = time.monotonic()
        for client in self._clients:
            client.stop()
        for client in self._clients:
            client.join(RECOVERY_SECONDS)
        self._instance.wait_until("settled", self._instance.is_settled, SETTLE_SECONDS)
        return time.monotonic() - started

    def judge(self) -> Verdict:
        return judge(
            self._instance,
            self._tenant,
            sync_books=[sender.books for sender in self._sync],
            async_books=[sender.books for sender in self._async],
            voider=self._voider,
            redis_kills=self._redis_kills,
        )


def _create_tenant(instance: Instance) -> Tenant:
    done = instance.manage("create_organization", "--name", "Chaos", "--email", "chaos@example.test", "--json")
    done.check_returncode()
    created = json.loads(done.stdout)
    tenant = Tenant(int(created["organization"]), created["api_key"])
    client = Client(instance.port, tenant.api_key)
    for metric in METRICS:
        definition = {**metric, "event_type": EVENT_TYPE, "dimensions": [{"key": "region"}]}
        answer = client.post("/v1/metrics", json.dumps(definition).encode())
        if answer is None or answer.status != 201:
            raise InstanceFailed(f"The metric {metric['code']} could not be created: {answer}")
    client.close()
    return tenant
