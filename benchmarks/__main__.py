"""``python -m benchmarks``: measure, print, and write JSON and chart where that is asked for."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

import benchmarks.works  # noqa: F401  # registers them
from benchmarks.chart import chart
from benchmarks.model import WORKS, Work
from benchmarks.report import report
from benchmarks.run import Options, Result, run
from benchmarks.server import database, facts
from eventstore import EventStoreError

DOCS = Path(__file__).parents[1] / "docs"

EXAMPLES = """
examples:
  python -m benchmarks --quick                        two minutes, small numbers, a first impression
  python -m benchmarks                                everything, a quarter of an hour
  python -m benchmarks --only append-64 read-all      some works
  python -m benchmarks --dsn postgresql://me@host/postgres
                                                      on your server, in a database made for it and dropped again
  python -m benchmarks --publish --rounds 3           write docs/benchmarks.json and docs/benchmarks.svg anew
"""


def main() -> int:
    """Return 0 if everything was measured, whatever came of it; 1 if a work failed; 2 for what cannot be begun."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.publish and (arguments.quick or arguments.only):
        parser.error("--publish takes a full run: without --quick and --only")
    if arguments.list:
        print("\n".join(f"{work.number:2}  {work.name:14} {work.title}" for work in WORKS))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a server and its directory go, too
    try:
        return asyncio.run(_main(arguments))
    except (EventStoreError, asyncpg.PostgresError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the event store beside raw Postgres and beside other event stores, on one server, in "
        "turns. Without --dsn on a durable embedded Postgres in a temporary directory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds of half a second, small logs")
    names = [work.name for work in WORKS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--list", action="store_true", help="name the works and end")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds of each work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures")
    parser.add_argument("--dsn", help="a server to use; the role must be allowed to create databases")
    parser.add_argument("--message-db-sql", metavar="DIR", help="the directory `database` of Message DB, to compare")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.json and docs/benchmarks.svg")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


async def _main(arguments: argparse.Namespace) -> int:
    chosen = [work for work in WORKS if not arguments.only or work.name in arguments.only]
    options = Options.of(quick=arguments.quick, rounds=arguments.rounds, message_db_sql=arguments.message_db_sql)
    progress = Progress()
    progress("starting the server" if arguments.dsn is None else "making a database")
    async with database(arguments.dsn) as (dsn, disk):
        known = await facts(dsn)
        known["machine"] |= disk
        results = await run(dsn, chosen, options, progress)
    progress.clear()
    print(report(results, known))
    _write(arguments, results, known, options, chosen)
    return 1 if any(result.failed for result in results) else 0


def _write(
    arguments: argparse.Namespace, results: list[Result], known: dict[str, Any], options: Options, chosen: list[Work]
) -> None:
    measured = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "rounds": options.rounds,
        "seconds_a_round": options.seconds,
        "complete": len(chosen) == len(WORKS),
        **known,
        "works": [result.plain() for result in results],
    }
    text = json.dumps(measured, indent=1, ensure_ascii=False) + "\n"
    caption = f"eventstore, Postgres {known['versions']['postgres']}, fsync {known['settings']['fsync']}"
    for file in [
        *([arguments.json] if arguments.json else []),
        *([DOCS / "benchmarks.json"] if arguments.publish else []),
    ]:
        file.write_text(text)
    if arguments.publish:
        (DOCS / "benchmarks.svg").write_text(chart(results, caption))


class Progress:
    """What is going on, on standard error: one line that changes on a terminal, else a line for each work."""

    def __init__(self) -> None:
        self._terminal, self._shown = sys.stderr.isatty(), ""

    def __call__(self, text: str) -> None:
        """Show *text*."""
        if self._terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif text.endswith("preparing") or ": " not in text:
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave the terminal as it was."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
