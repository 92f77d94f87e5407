"""Taking into one's own memory what another space has new: a branch's findings, for one.

space of a branch ── mem.export(new=True) ──> bytes ── mem.upload, mem.import ──> own space
"""

from hashlib import sha256

from syscalls.calls.capsule import Export, Import, Imported, Upload
from userland.agent import Agent

PIECE = 1 << 20


async def merge(agent: Agent, space: int | str, *, new: bool = True) -> Imported:
    """Take the records of a space that the agent may read; with ``new`` only those that it has
    not from the one it was forked from. What is known already stays as it is.

    Raises ENOENT, EPERM, EDQUOT.
    """
    pieces: list[bytes] = []
    async with agent.channel.stream(Export(space=space, new=new)) as stream:
        async for piece in stream:
            pieces.append(piece.data)
    data = b"".join(pieces)
    name = f"sha256:{sha256(data).hexdigest()}"
    done = await agent.call(Upload(hash=name, size=len(data)))
    while not done.done:
        part = data[done.at : done.at + PIECE]
        done = await agent.call(Upload(hash=name, size=len(data), at=done.at, data=part))
    taken: Imported = await agent.call(Import(capsule=name))
    return taken
