"""The order of things: servers, preparation, our processes, the demo; and the reverse on the way out."""

import asyncio
import http.client
import json
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
import redis as redis_client

from config.embedded import postgres, redis, state
from config.runner import recipes
from config.runner.child import Child, Recipe
from config.runner.console import Console
from config.runner.demo import credentials_path
from config.runner.plan import FORWARD_PORT, CannotStart, Plan

# An embedded server that dies this often before it ever took a query will not come up by itself.
HOPELESS_DEATHS = 8
EXTERNAL_PATIENCE_SECONDS = 60
SAY_AGAIN_SECONDS = 5.0
# One Ctrl-C may arrive twice: from the terminal, and passed on by `make` or `timeout`.
ECHO_SECONDS = 1.0
# Stopped in this order: first what takes requests, last what keeps the data.
STOP_ORDER = (
    "demo",
    "meterbook",
    "web",
    "stream",
    "forward",
    "beat",
    "courier",
    "slow-worker",
    "worker",
    "redis",
    "postgres",
)


@dataclass
class Supervisor:
    plan: Plan
    console: Console
    children: dict[str, Child] = field(default_factory=dict)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    stop_requested: asyncio.Event = field(default_factory=asyncio.Event)
    asked_to_stop_at: float = 0.0

    async def run(self) -> int:
        """Start everything, wait for a signal, stop everything. Returns the exit status."""
        self._listen_to_signals()
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self.stop_requested.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if not starting.done():
                starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            await stopping
        finally:
            stopping.cancel()
            await self._stop()
        return 0

    # --- starting --------------------------------------------------------------------------------

    async def _start(self) -> None:
        services = {
            "DATABASE_URL": self.plan.database_url or "",
            "REDIS_URL": self.plan.redis_url or "",
            "METERBOOK_SECRET_KEY": self.plan.secret_key or state.ensure_secret_key(self.plan.data_dir),
        }
        # Both are started before either is awaited.
        database, cache = self._start_postgres(), self._start_redis()
        services["DATABASE_URL"] = await database()
        services["REDIS_URL"] = await cache()
        state.write_services(self.plan.data_dir, services)

        environment = recipes.child_environment(self.plan, services)
        await self._prepare(environment)
        for recipe in (recipes.web, recipes.stream, recipes.worker):
            self._keep(recipe(self.plan, environment))
        if self.plan.slow_worker_threads:
            self._keep(recipes.slow_worker(self.plan, environment))
        for recipe_of_one in (recipes.beat, recipes.courier):
            self._keep(recipe_of_one(environment))
        if self.plan.forward_port or self.plan.forward_secure_port:
            self._keep(recipes.forward(environment))
        await self._until("the web server", self._web_answers)
        self.console.say(f"Meterbook is at {self.plan.address}")
        for line in describe_forward_ports(self.plan):
            self.console.say(line)
        await self._offer_demo(environment)

    def _start_postgres(self) -> Callable[[], Awaitable[str]]:
        """Start the embedded PostgreSQL unless there is another; return what awaits it and tells its URL."""
        if self.plan.database_url is not None:
            return partial(self._await_external, "PostgreSQL", _database_refusal, self.plan.database_url)
        site = postgres.prepare(self.plan.data_dir, say=self.console.say)
        leftover = postgres.running_pid(site)
        if leftover is not None:
            self.console.say("stopping a PostgreSQL left over from an earlier start …")
            postgres.stop(leftover, say=self.console.say)
        recipe = Recipe(
            name="postgres",
            start=partial(_start_postgres, site),
            stop_signal=signal.SIGINT,  # "fast": ends connections, writes everything
            last_signal=signal.SIGQUIT,  # "immediate": recovers at the next start
            grace_seconds=120,
            chatter=postgres.CHATTER,
        )
        child = self._keep(recipe)

        async def ready() -> str:
            await self._until("PostgreSQL", partial(postgres.is_ready, site), child)
            await asyncio.to_thread(postgres.ensure_database, site.url())
            return site.url()

        return ready

    def _start_redis(self) -> Callable[[], Awaitable[str]]:
        if self.plan.redis_url is not None:
            return partial(self._await_external, "Redis", _redis_refusal, self.plan.redis_url)
        site = redis.prepare(self.plan.data_dir)
        if redis.stop_leftover(site):
            self.console.say("stopped a Redis left over from an earlier start")
        child = self._keep(Recipe("redis", partial(_start_redis, site), grace_seconds=30, chatter=redis.CHATTER))

        async def ready() -> str:
            await self._until("Redis", partial(redis.is_ready, site), child)
            return site.url

        return ready

    async def _prepare(self, environment: Mapping[str, str]) -> None:
        shutil.rmtree(recipes.metrics_dir(self.plan), ignore_errors=True)  # counters begin with the installation
        recipes.metrics_dir(self.plan).mkdir(mode=0o700)
        if await self._once(recipes.preparation(environment)) != 0:
            raise CannotStart("The database could not be brought up to date; the reason is above.")

    async def _offer_demo(self, environment: Mapping[str, str]) -> None:
        """Load the demo if there is none yet, and say how to get in. Serving goes on whatever becomes of it."""
        path = credentials_path(self.plan.data_dir)
        if not self.plan.has_demo:
            return
        if not path.exists() and await self._once(recipes.demo(self.plan, environment)) != 0:
            self.console.say("the demo is not complete; the next start goes on with it")
        if path.exists():
            for line in _welcome(self.plan, json.loads(path.read_text())):
                self.console.say(line)

    def _keep(self, recipe: Recipe) -> Child:
        child = self.children[recipe.name] = Child(recipe, self.console)
        child.keep_running()
        return child

    async def _once(self, recipe: Recipe) -> int:
        child = self.children[recipe.name] = Child(recipe, self.console)
        return await child.run_once()

    async def _until(self, what: str, is_ready: Callable[[], bool], child: Child | None = None) -> None:
        """Return when it is ready, however long recovery takes; give up only on a server that keeps dying."""
        started = last_said = time.monotonic()
        while not await asyncio.to_thread(is_ready):
            if child is not None and child.death_count >= HOPELESS_DEATHS:
                raise CannotStart(f"{what} does not start; its reasons are above.")
            if time.monotonic() - last_said >= SAY_AGAIN_SECONDS:
                last_said = time.monotonic()
                self.console.say(f"waiting for {what} ({last_said - started:.0f} s) …")
            await asyncio.sleep(0.1)

    async def _await_external(self, what: str, refusal: Callable[[str], str | None], url: str) -> str:
        """Return the URL when the server behind it answers; raise with its own words after a minute."""
        deadline = time.monotonic() + EXTERNAL_PATIENCE_SECONDS
        while (reason := await asyncio.to_thread(refusal, url)) is not None:
            if time.monotonic() > deadline:
                raise CannotStart(f"{what} does not answer: {reason}")
            self.console.say(f"waiting for {what}: {reason}")
            await asyncio.sleep(2)
        return url

    def _web_answers(self) -> bool:
        connection = http.client.HTTPConnection(self.plan.local_host, self.plan.port, timeout=5)
        try:
            connection.request("GET", "/health/live", headers={"Host": "localhost"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    # --- stopping --------------------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._ask_to_stop)
        loop.add_signal_handler(signal.SIGCHLD, self._notice_ends)

    def _ask_to_stop(self) -> None:
        """Stop; asked again later, stop at once."""
        now = time.monotonic()
        if not self.stop_requested.is_set():
            self.console.say("stopping … (again: at once)")
            self.asked_to_stop_at = now
            self.stop_requested.set()
        elif now - self.asked_to_stop_at >= ECHO_SECONDS:
            self.hurry.set()

    def _notice_ends(self) -> None:
        for child in list(self.children.values()):
            child.notice_end()

    async def _stop(self) -> None:
        for name in STOP_ORDER:
            if name in self.children:
                await self.children[name].stop(hurry=self.hurry)
        with suppress(FileNotFoundError):
            (self.plan.data_dir / "run" / state.SERVICES_FILE).unlink()
        self.console.say("stopped")


def _start_postgres(site: postgres.PostgresSite, output: int) -> Any:
    return postgres.start(site, parent_death_signal=signal.SIGQUIT, output=output)


def _start_redis(site: redis.RedisSite, output: int) -> Any:
    return redis.start(site, parent_death_signal=signal.SIGKILL, output=output)


def _database_refusal(url: str) -> str | None:
    try:
        postgres.ensure_database(url)
    except psycopg.Error as error:
        return str(error).strip()
    return None


def _redis_refusal(url: str) -> str | None:
    try:
        with redis_client.Redis.from_url(url, socket_connect_timeout=5) as client:
            client.ping()
    except redis_client.RedisError as error:
        return str(error)
    return None


def describe_forward_ports(plan: Plan) -> list[str]:
    """Say where senders are heard, as far as they do not expect it by themselves."""
    lines = []
    if plan.forward_port not in {0, FORWARD_PORT}:
        lines.append(f"billing-clients are heard at {plan.forward_host}:{plan.forward_port}")
    if plan.forward_secure_port:
        lines.append(
            f"forward clients that know the key are heard at {plan.forward_secure_host}:{plan.forward_secure_port}"
        )
        if not plan.forward_port:
            lines.append("billing-clients are heard nowhere: METERBOOK_FORWARD_PORT is 0")
    return lines


def _welcome(plan: Plan, credentials: Mapping[str, str]) -> list[str]:
    return [
        "the demo is loaded:",
        f"    open     {plan.address}",
        f"    sign in  {credentials.get('email')}  password  {credentials.get('password')}",
        f"    API key  {credentials.get('api_key')}",
    ]
