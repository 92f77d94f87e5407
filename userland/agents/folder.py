"""folder: keeps a folder indexed for as long as it runs.

    engram mem mount FOLDER

It looks at the folder every few seconds, and does what has to be done where something has
changed: the same as `engram mem ingest`. What it knows is in its records, so that after a
restart it goes on where it was. A look is a walk over names and dates: it works on every file
system, and misses nothing that happened while nobody watched.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import trio

from syscalls.errors import ENOENT, LoadFault, MachineFault
from syscalls.table import Call
from userland.agent import Agent
from userland.documents.sync import Options, Outcome, Sync
from userland.documents.tree import Rules, Tree, look

EVERY = 2.0


def arguments(words: list[str]) -> argparse.Namespace:
    """The command line of the agent."""
    parser = argparse.ArgumentParser("folder")
    parser.add_argument("--every", type=float, default=EVERY, metavar="S")
    parser.add_argument("--largest", type=int, default=Rules().largest, metavar="BYTES")
    parser.add_argument("--hidden", action="store_true")
    parser.add_argument("--no-original", action="store_true")
    parser.add_argument("folder", type=Path)
    return parser.parse_args(words)


async def main(agent: Agent) -> None:
    """Index, then watch until told to end."""
    options = arguments(agent.args)
    rules = Rules(hidden=options.hidden, largest=options.largest)
    sync = Sync(
        lambda call: trio.from_thread.run(_ask, agent, call),
        Options(rules=rules, original=not options.no_original),
    )
    seen: Tree | None = None
    missing = False
    while True:
        try:
            tree = await trio.to_thread.run_sync(look, options.folder.absolute(), rules)
            if tree != seen:
                work = partial(sync.run, options.folder, partial(_told, agent))
                await trio.to_thread.run_sync(work)
                seen = tree
            missing = False
        except ENOENT as error:
            # A disk that is not mounted is not a folder whose files were all removed.
            if not missing:
                agent.print(f"waiting: {error.message}")
            missing, seen = True, None
        except (LoadFault, MachineFault) as error:
            agent.print(f"later: {error.message}")
            seen = None
        await trio.sleep(options.every)


async def _ask(agent: Agent, call: Call) -> Any:
    return await agent.call(call)


def _told(agent: Agent, outcome: Outcome, _place: int, _count: int) -> None:
    if outcome.what != "unchanged":
        note = f": {outcome.note}" if outcome.note else ""
        agent.print(f"{outcome.what} {outcome.path} ({outcome.chunks} chunks){note}")
