"""`python -m config.runner`: run Meterbook until SIGINT or SIGTERM."""

import asyncio
import os
import sys
from signal import SIGTERM

from config import env
from config.embedded import state
from config.embedded.postgres import PostgresFailed
from config.embedded.redis import RedisFailed
from config.env import MisconfiguredVariable
from config.processes import AccountUnavailable, die_with_parent
from config.runner.console import Console
from config.runner.lock import DataDirLock
from config.runner.plan import CannotStart, Plan, read_plan
from config.runner.supervisor import Supervisor


def main() -> int:
    if "--with-parent" in sys.argv[1:]:
        die_with_parent(SIGTERM)  # started by `make`: when make is killed, nobody else would stop us
    console = Console(sys.stdout)
    try:
        data_dir = env.data_dir()
        state.create_data_dir(data_dir)
        with DataDirLock(data_dir):
            return asyncio.run(_run(read_plan(os.environ), console))
    except (CannotStart, MisconfiguredVariable, AccountUnavailable, PostgresFailed, RedisFailed, OSError) as error:
        console.say(str(error))
        return 1
    finally:
        console.close()


async def _run(plan: Plan, console: Console) -> int:
    return await Supervisor(plan, console).run()  # made inside the loop that it waits in


if __name__ == "__main__":
    sys.exit(main())
