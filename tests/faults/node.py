"""A node of a campaign: ``python -m tests.faults.node DSN JOURNAL NAME PLAN CLOCK``.

It is one of `tests.hunt.subscription_node`, which is started until the database is there, as a supervisor would do.
"""

from __future__ import annotations

import asyncio
import json
import sys

import tests.hunt.journal  # noqa: F401 - before the clock is set: journals go by the time that all processes share
from tests.faults.clocks import mend_datetimes, set_clock


async def main(dsn: str, path: str, name: str, plan: str) -> None:
    from eventstore import DatabaseUnavailable
    from tests.hunt import subscription_node as node

    mend_datetimes()
    while True:
        try:
            return await node.main(dsn, path, name, node.Plan(**json.loads(plan)))
        except DatabaseUnavailable as error:
            print(f"not started: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(0.5)


if __name__ == "__main__":
    set_clock(sys.argv[5])
    asyncio.run(main(*sys.argv[1:5]))
