"""`python -m config.runner`: run Meterbook until SIGINT or SIGTERM."""

import asyncio
import os
import sys
from signal import SIGTERM

from config.embedded import state
from config.embedded.postgres import PostgresFailed
from config.embedded.redis import RedisFailed
from config.env import MisconfiguredVariable
from config.processes import AccountUnavailable, die_with_parent
from config.runner.console import Console
from config.runner.plan import CannotStart, read_plan
from config.runner.supervisor import Supervisor


def main() -> int:
    if "--with-parent" in sys.argv[1:]:
        die_with_parent(SIGTERM)  # started by `make`: when make is killed, nobody else would stop us
    console = Console()
    try:
        plan = read_plan(os.environ)
        state.create_data_dir(plan.data_dir)
        return asyncio.run(_run(Supervisor(plan, console)))
    except (CannotStart, MisconfiguredVariable, AccountUnavailable, PostgresFailed, RedisFailed, OSError) as error:
        console.say(str(error))
        return 1
    finally:
        console.close()


async def _run(supervisor: Supervisor) -> int:
    return await supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
