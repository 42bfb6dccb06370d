"""`python -m config.embedded start|stop [--data-dir DIR]`: the two servers alone, in the background.

For working on the code: `manage.py` then finds them through `<data dir>/run/services.env`.
"""

import argparse
import os
import sys
from pathlib import Path

from config import env
from config.embedded import postgres, redis, state


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)  # noqa: T201  (a command's own output)


def start(data_dir: Path) -> None:
    state.create_data_dir(data_dir)
    cache, database = redis.prepare(data_dir), postgres.prepare(data_dir, say=say)
    log = os.open(data_dir / "run" / "services.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if not redis.is_ready(cache):
        redis.wait_until_ready(cache, redis.start(cache, parent_death_signal=None, output=log), say=say)
    if postgres.running_pid(database) is None:
        process = postgres.start(database, parent_death_signal=None, output=log)
        postgres.wait_until_ready(database, process, say=say)
    postgres.ensure_database(database.url())
    services = {
        "DATABASE_URL": database.url(),
        "REDIS_URL": cache.url,
        "METERBOOK_SECRET_KEY": state.ensure_secret_key(data_dir),
    }
    state.write_services(data_dir, services)
    say(f"PostgreSQL and Redis run; their addresses are in {data_dir / 'run' / state.SERVICES_FILE}")


def stop(data_dir: Path) -> None:
    state.create_data_dir(data_dir)
    redis.stop_leftover(redis.prepare(data_dir))
    pid = postgres.running_pid(postgres.prepare(data_dir, say=say))
    if pid is not None:
        postgres.stop(pid, say=say)
    say("PostgreSQL and Redis are stopped")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m config.embedded", description=__doc__)
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("--data-dir", type=Path, default=env.data_dir())
    arguments = parser.parse_args()
    {"start": start, "stop": stop}[arguments.action](arguments.data_dir.resolve())


if __name__ == "__main__":
    main()
