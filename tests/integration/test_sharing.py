"""Shares of records, filters and spaces through the whole kernel: what leaks, and what is noted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from syscalls.errors import EINVAL, EIO, ENOENT, EPERM, ESRCH, EngramError
from syscalls.records import Filter, Grant
from syscalls.table import TABLE
from tests.simulation import World, run_seeded, simulated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from drivers.contracts import Batch
    from syscalls.launch import Launch
    from userland.channel import Channel

SECRET = "swordfish"
AGENT = ("mem.*", "sys.info", "sys.clock", "proc.*", "ipc.*")


class Agent:
    """A session with the rights of an agent."""

    def __init__(self, channel: Channel, apid: int, space: int) -> None:
        self.channel = channel
        self.mem = channel.mem
        self.apid = apid
        self.space = space

    async def write(self, content: str, **fields: Any) -> str:
        written = await self.mem.write(segment="semantic", content=content, **fields)
        return str(written.rid)

    async def found(self, query: str, **fields: Any) -> list[str]:
        return [hit.content for hit in (await self.mem.search(query=query, **fields)).hits]

    async def listed(self, space: int) -> list[str]:
        return [record.content for record in (await self.mem.read(space=space)).records]

    async def content(self, rid: str, **fields: Any) -> str:
        return str((await self.mem.read(rid=rid, **fields)).records[0].content)


async def attach(world: World, *grants: str) -> Agent:
    channel = world.attach(*(grants or AGENT))
    info = await channel.sys.info()
    return Agent(channel, info.apid, (await channel.mem.stat()).space)


def simulation(
    story: Callable[[World, Agent, Agent, Agent], Awaitable[None]],
) -> Callable[[], None]:
    """A test of three agents that know nothing of each other."""

    def test() -> None:
        async def main() -> None:
            async with simulated(11, {"idle": idle, "reader": reader}) as world:
                agents = [await attach(world) for _ in range(3)]
                try:
                    await story(world, agents[0], agents[1], agents[2])
                finally:
                    for agent in agents:
                        agent.channel.close()

        run_seeded(11, main)

    test.__doc__ = story.__doc__
    return test


async def idle(channel: Channel, launch: Launch) -> None:
    await channel.ipc.recv()


async def reader(channel: Channel, launch: Launch) -> None:
    """Reads its own space, and once more when it is told to."""
    seen = []
    for _ in range(2):
        try:
            seen.append([record.content for record in (await channel.mem.read()).records])
        except EngramError as error:
            seen.append([error.code])
        if len(seen) == 1:
            await channel.ipc.recv()
    await channel.proc.exit(value=seen)


async def refused(call: Callable[..., Awaitable[Any]], **fields: Any) -> None:
    with pytest.raises(EPERM):
        await call(**fields)


def guess(name: str, hint: dict[str, Any]) -> list[Any]:
    """Values to try for an argument, the likeliest first."""
    if name in hint:
        return [hint[name]]
    note = {"segment": "semantic", "content": "x"}
    return [SECRET, 1, {}, "read", "semantic", "forget", [SECRET], [note], [], 0.5]


WAYS = (("space",), ("rid",), ("rids",), ("space", "rid"), ("space", "query"), ("space", "key"))


def attempts(hint: dict[str, Any]) -> list[Any]:
    """Every call of memory that can name a space or a record, in several ways."""
    calls = []
    for entry in TABLE:
        names = entry.call.__struct_fields__
        for way in WAYS if entry.group == "mem" else ():
            if set(way) <= set(names):
                given = {name: guess(name, hint)[0] for name in way}
                try:
                    made = msgspec.convert({**_filler(entry.call, hint), **given}, entry.call)
                except msgspec.ValidationError:
                    continue  # it wants more than names and texts: what a shared record is not
                calls.append(made)
    return calls


def _filler(call: type, hint: dict[str, Any]) -> dict[str, Any]:
    """Something for every required argument, so that one can be tried alone."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(call):
        if field.required:
            for value in guess(field.name, hint):
                try:
                    msgspec.convert(value, field.type)
                except msgspec.ValidationError:
                    continue
                found[field.name] = value
                break
    return found


async def _leaks(agent: Agent, hint: dict[str, Any]) -> list[str]:
    """The calls whose answer, or whose error, holds the secret."""
    told = []
    calls = attempts(hint)
    assert len({call.NAME for call in calls}) >= 10
    for call in calls:
        try:
            with trio.fail_after(100):
                answer = msgspec.msgpack.encode(await agent.channel.call(call))
        except EngramError as error:
            answer = msgspec.msgpack.encode(error.to_value())
        if b"hunter2" in answer:  # which every secret record says, and no question
            told.append(f"{call}")
    return told


async def _secrets(owner: Agent) -> tuple[str, str]:
    """An open record among secret ones; the rids of it and of a secret one."""
    secret = await owner.write(f"the {SECRET} opens with hunter2", key="vault", tags=["private"])
    await owner.mem.update(rid=secret, content=f"the {SECRET} is now hunter2 again")
    public = await owner.write("the office opens at nine", key="office", tags=["public"])
    for number in range(30):
        await owner.write(f"hunter2 note {number} about the {SECRET}", tags=["private"])
    return public, secret


@simulation
async def test_nothing_is_seen_without_a_share(
    world: World, owner: Agent, stranger: Agent, other: Agent
) -> None:
    """The ground that the other tests stand on."""
    public, secret = await _secrets(owner)
    for rid in (public, secret):
        hint = {"space": owner.space, "rid": rid, "key": "vault", "rids": [rid], "to": other.apid}
        assert await _leaks(stranger, hint) == []
        await refused(stranger.mem.read, rid=rid)
        await refused(stranger.mem.history, rid=rid)
        await refused(stranger.mem.update, rid=rid, content="mine")
        await refused(stranger.mem.delete, rid=rid)
    assert await stranger.found("when does the office open") == []
    assert len((await owner.mem.audit()).lines) == 0


@simulation
async def test_a_share_of_one_record_shows_that_record_only(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    public, secret = await _secrets(owner)
    await owner.mem.update(rid=public, content="the office opens at ten")
    await owner.mem.share(to=friend.apid, rid=public)
    assert await friend.content(public) == "the office opens at ten"
    assert await friend.content(public, version=1) == "the office opens at nine"
    assert [v.content for v in (await friend.mem.history(rid=public)).versions] == [
        "the office opens at nine",
        "the office opens at ten",
    ]
    assert await friend.listed(owner.space) == ["the office opens at ten"]
    assert (await friend.mem.read(key="office", space=owner.space)).records[0].rid == public
    assert await friend.found("hunter2 swordfish office") == ["the office opens at ten"]
    assert await friend.found("hunter2", space=owner.space, k=100) == ["the office opens at ten"]
    # Nothing else, not even whether it is there.
    await refused(friend.mem.read, rid=secret)
    await refused(friend.mem.history, rid=secret)
    await refused(friend.mem.read, key="vault", space=owner.space)
    await refused(friend.mem.read, key="no such key", space=owner.space)
    await refused(friend.mem.stat, space=owner.space)
    await refused(friend.mem.update, rid=public, content="mine")
    await refused(friend.mem.delete, rid=public)
    await refused(friend.mem.write, segment="semantic", content="x", space=owner.space)
    await refused(friend.mem.attach, space=owner.space)
    await refused(friend.mem.snapshot, space=owner.space)
    hint = {"space": owner.space, "rid": secret, "key": "vault", "rids": [secret], "to": other.apid}
    assert await _leaks(friend, hint) == []
    await refused(other.mem.read, rid=public)
    gone = await owner.mem.delete(rid=public)
    assert gone is not None
    with pytest.raises(ENOENT):
        await friend.content(public)


@simulation
async def test_a_share_of_a_filter_shows_what_fits_it_now(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    public, secret = await _secrets(owner)
    await owner.mem.share(to=friend.apid, filter=Filter(tags=["public"]))
    assert await friend.content(public) == "the office opens at nine"
    assert await friend.listed(owner.space) == ["the office opens at nine"]
    assert await friend.found("hunter2 swordfish office", k=100) == ["the office opens at nine"]
    await refused(friend.mem.read, rid=secret)
    hint = {"space": owner.space, "rid": secret, "key": "vault", "rids": [secret], "to": other.apid}
    assert await _leaks(friend, hint) == []
    # What was said while it did not fit is not shown when it does.
    await owner.mem.update(rid=secret, content="declassified", tags=["public"])
    assert await friend.content(secret) == "declassified"
    assert [v.content for v in (await friend.mem.history(rid=secret)).versions] == ["declassified"]
    await refused(friend.mem.read, rid=secret, version=1)
    # And what does not fit any more is gone.
    await owner.mem.update(rid=public, tags=["private"])
    await refused(friend.mem.read, rid=public)
    assert await friend.listed(owner.space) == ["declassified"]


@simulation
async def test_writing_by_a_share_of_a_filter_stays_within_it(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    public, secret = await _secrets(owner)
    await owner.mem.share(to=friend.apid, access="write", filter=Filter(tags=["public"]))
    there = owner.space
    added = await friend.write("a new notice", tags=["public"], space=there)
    await friend.mem.update(rid=added, content="a better notice")
    assert await owner.content(added) == "a better notice"
    await refused(friend.mem.write, segment="semantic", content="x", tags=["other"], space=there)
    await refused(friend.mem.update, rid=public, tags=["other"])
    await refused(friend.mem.update, rid=secret, content="x")
    await refused(friend.mem.delete, rid=secret)
    # A key would reach a record that is not shared.
    await refused(
        friend.mem.write, segment="semantic", content="x", tags=["public"], key="vault", space=there
    )
    await refused(
        friend.mem.write_many,
        notes=[{"segment": "semantic", "content": "x", "tags": ["public"], "idempotency": "i"}],
        space=there,
    )
    await friend.mem.delete(rid=added)
    assert "swordfish" in await owner.content(secret)


@simulation
async def test_a_whole_space_read_or_write(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    public, secret = await _secrets(owner)
    await owner.mem.share(to=friend.apid)
    assert "hunter2" in await friend.content(secret)
    stat = await friend.mem.stat(space=owner.space)
    assert (stat.records, [grant.apid for grant in stat.grants]) == (32, [friend.apid])
    await owner.mem.share(to=other.apid, access="write")
    stat = await friend.mem.stat(space=owner.space)
    assert [grant.apid for grant in stat.grants] == [friend.apid]  # not who else
    await refused(friend.mem.update, rid=public, content="x")
    await refused(friend.mem.snapshot, space=owner.space)
    await other.mem.update(rid=public, content="the office is closed")
    assert await friend.content(public) == "the office is closed"
    await other.write("from the other", key="k", space=owner.space)
    await owner.mem.share(to=other.apid, access="read")
    await refused(other.mem.update, rid=public, content="x")
    await refused(other.mem.audit, space=owner.space)


@simulation
async def test_a_share_is_over_at_once(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    public, _ = await _secrets(owner)
    await owner.mem.share(to=friend.apid, rid=public)
    await owner.mem.share(to=friend.apid, ttl=50)
    first = (await owner.mem.stat()).grants[0]
    assert isinstance(first, Grant)
    assert (await friend.mem.stat(space=owner.space)).records == 32
    await trio.sleep(51)
    await refused(friend.mem.stat, space=owner.space)
    assert await friend.listed(owner.space) == ["the office opens at nine"]
    assert len((await owner.mem.stat()).grants) == 1
    await owner.mem.revoke(to=friend.apid)
    await refused(friend.mem.read, rid=public)
    await refused(friend.mem.read, space=owner.space)
    assert await friend.found("office") == []
    with pytest.raises(ENOENT):
        await owner.mem.revoke(to=friend.apid)
    one = (await owner.mem.share(to=friend.apid, rid=public)).grant.id
    await owner.mem.share(to=friend.apid, filter=Filter(tags=["none"]))
    await owner.mem.revoke(to=friend.apid, grant=one)
    await refused(friend.mem.read, rid=public)
    assert len((await owner.mem.stat()).grants) == 1


@simulation
async def test_a_narrower_share_can_be_passed_on_and_ends_with_its_parent(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    public, secret = await _secrets(owner)
    await refused(friend.mem.share, to=other.apid, space=owner.space)
    await owner.mem.share(to=friend.apid, filter=Filter(tags=["public"]), ttl=1000)
    # No more than it has, and not for longer.
    await refused(friend.mem.share, to=other.apid, space=owner.space)
    await refused(friend.mem.share, to=other.apid, rid=secret)
    await refused(friend.mem.share, to=other.apid, rid=public, access="write")
    await refused(friend.mem.share, to=other.apid, rid=public, ttl=5000)
    grant = (await friend.mem.share(to=other.apid, rid=public)).grant
    assert grant.parent
    assert await other.content(public) == "the office opens at nine"
    # A filter passed on holds besides the one it came by.
    await friend.mem.share(to=other.apid, filter=Filter(tags=["private"]), space=owner.space)
    await refused(other.mem.read, rid=secret)
    assert await other.listed(owner.space) == ["the office opens at nine"]
    # It is looked at along the chain: what does not fit the first filter any more is gone.
    await owner.mem.update(rid=public, tags=["private"])
    await refused(other.mem.read, rid=public)
    await owner.mem.update(rid=public, tags=["public"])
    assert await other.content(public) == "the office opens at nine"
    with pytest.raises(ENOENT):
        await other.mem.revoke(to=friend.apid, space=owner.space)
    await owner.mem.revoke(to=friend.apid)
    await refused(other.mem.read, rid=public)
    assert (await owner.mem.stat()).grants == []
    # In the middle too, and by time.
    await owner.mem.share(to=friend.apid, access="write", ttl=100)
    await friend.mem.share(to=other.apid, space=owner.space)
    assert len(await other.listed(owner.space)) == 20
    await friend.mem.revoke(to=other.apid, space=owner.space)
    await refused(other.mem.read, space=owner.space)
    await friend.mem.share(to=other.apid, space=owner.space)
    await trio.sleep(101)
    await refused(other.mem.read, space=owner.space)
    await refused(friend.mem.read, space=owner.space)


@simulation
async def test_narrowing_a_share_narrows_what_was_passed_on(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    public, _ = await _secrets(owner)
    await owner.mem.share(to=friend.apid, access="write")
    await friend.mem.share(to=other.apid, access="write", space=owner.space)
    await other.mem.update(rid=public, content="by the other")
    await owner.mem.share(to=friend.apid, access="read")
    await refused(other.mem.update, rid=public, content="again")
    assert await other.content(public) == "by the other"


@simulation
async def test_what_is_attached_by_a_share_ends_with_it(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    _, secret = await _secrets(owner)
    await friend.write("my own")
    await owner.mem.share(to=friend.apid)
    await friend.mem.attach(space=owner.space)
    assert len(await friend.listed(friend.space)) == 20
    assert "hunter2" in (await friend.found("swordfish"))[0]
    await owner.mem.revoke(to=friend.apid)
    assert await friend.listed(friend.space) == ["my own"]
    assert await friend.found("swordfish") == ["my own"]
    hint = {"space": friend.space, "rid": secret, "key": "vault", "rids": [secret]}
    assert await _leaks(friend, hint) == []
    await owner.mem.share(to=friend.apid, ttl=60)
    await friend.mem.attach(space=owner.space)
    assert len(await friend.listed(friend.space)) == 20
    await trio.sleep(61)
    assert not any("hunter2" in content for content in await friend.listed(friend.space))
    assert [line.call for line in (await owner.mem.audit(by=friend.apid)).lines] == [
        "mem.attach",
        "mem.attach",
    ]


@simulation
async def test_a_space_that_was_lent_to_a_child_is_not_its_own(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    """Who was given a share spawns a process into the space: the child has a share too."""
    await owner.write("the plan")
    await owner.mem.share(to=friend.apid, access="write")
    spawned = await friend.channel.proc.spawn(program="reader", space=owner.space)

    await trio.sleep(1)
    await owner.mem.revoke(to=friend.apid)
    await friend.channel.ipc.send(to=spawned.apid, body="again")
    ended = await friend.channel.proc.wait(target=spawned.apid)
    assert ended.value == [["the plan"], ["EPERM"]]


@simulation
async def test_the_audit_says_who_read_what(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    public, secret = await _secrets(owner)
    await owner.content(secret)  # one's own is nobody's business
    await owner.mem.share(to=friend.apid)
    await friend.content(public)
    await friend.mem.history(rid=secret)
    await friend.found("office hours", k=1)
    await friend.found("of my own space only", space=friend.space)
    await friend.mem.read(space=owner.space, limit=2)
    await owner.mem.revoke(to=friend.apid)
    lines = (await owner.mem.audit()).lines
    assert [(line.call, line.apid) for line in reversed(lines)] == [
        ("mem.share", owner.apid),
        ("mem.read", friend.apid),
        ("mem.history", friend.apid),
        ("mem.search", friend.apid),
        ("mem.read", friend.apid),
        ("mem.revoke", owner.apid),
    ]
    revoked, listed, searched, history, read, shared = lines
    assert read.rids == [public]
    assert history.rids == [secret]
    assert (searched.query, len(searched.rids)) == ("office hours", 1)
    assert listed.count == 2
    assert f"apid {friend.apid}" in shared.about
    assert f"apid {friend.apid}" in revoked.about
    about = (await owner.mem.audit(rid=secret)).lines
    assert {line.call for line in about} <= {"mem.history", "mem.read", "mem.search"}
    assert "mem.history" in [line.call for line in about]
    older = (await owner.mem.audit(before=listed.seq)).lines
    assert [line.seq for line in older] == [4, 3, 2, 1]
    await refused(friend.mem.audit, space=owner.space)
    # A person at a shell who looks into it is seen too.
    shell = world.attach()
    await shell.mem.read(rid=public)
    assert (await owner.mem.audit(limit=1)).lines[0].call == "mem.read"
    shell.close()


def test_the_audit_is_bounded_and_outlives_nothing_it_should_not() -> None:
    async def main() -> None:
        async with simulated(11, {}, audit_lines=5) as world:
            owner, friend = await attach(world), await attach(world)
            rid = await owner.write("x")
            await owner.mem.share(to=friend.apid)
            for _ in range(20):
                await friend.content(rid)
            lines = (await owner.mem.audit()).lines
            assert [line.seq for line in lines] == [21, 20, 19, 18, 17]
            store = world.kernel.machine.store
            assert len(store.scan("meta", b"ums/audit/", b"ums/audit0")) == 5
            owner.channel.close()
            friend.channel.close()

    run_seeded(11, main)


@simulation
async def test_nobody_reads_unseen(world: World, owner: Agent, friend: Agent, other: Agent) -> None:
    """Where the audit cannot be written the read fails."""
    public, _ = await _secrets(owner)
    await owner.mem.share(to=friend.apid)
    store = world.kernel.machine.store
    commit = store.commit

    async def full(batch: Batch) -> list[int]:
        raise EIO("no space left", driver="store")

    store.commit = full  # type: ignore[method-assign]
    for attempt in (
        lambda: friend.content(public),
        lambda: friend.found("office"),
        lambda: friend.mem.history(rid=public),
        lambda: friend.mem.read(space=owner.space),
    ):
        with pytest.raises(EIO):
            await attempt()
    assert await owner.content(public)
    store.commit = commit  # type: ignore[method-assign]


@simulation
async def test_a_snapshot_belongs_to_who_owns_the_space(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    rid = await owner.write("as it was")
    made = (await owner.mem.snapshot(name="backup")).space
    await owner.mem.update(rid=rid, content="as it is")
    assert await owner.content(rid, space="backup") == "as it was"
    assert await owner.listed(made) == ["as it was"]
    await refused(friend.mem.read, rid=rid, space=made)
    await refused(friend.mem.read, space=made)
    await refused(friend.mem.attach, space=made)
    # Sharing the one does not share the other.
    await owner.mem.share(to=friend.apid, space=made)
    assert await friend.listed(made) == ["as it was"]
    assert await friend.content(rid) == "as it was"
    await refused(friend.mem.read, space=owner.space)
    await refused(friend.mem.read, rid=rid, space=owner.space)
    assert await friend.found("as it was") == ["as it was"]
    await owner.mem.delete(rid=rid)
    assert await friend.content(rid) == "as it was"
    await owner.mem.delete(rid=rid, space=made)
    with pytest.raises(ENOENT):
        await friend.content(rid, space=made)


@simulation
async def test_bad_shares_are_refused(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    rid = await owner.write("x")
    with pytest.raises(EINVAL):
        await owner.mem.share(to=friend.apid, rid=rid, filter=Filter(kind="x"))
    with pytest.raises(ESRCH):
        await owner.mem.share(to=99999)
    with pytest.raises(ENOENT):
        await owner.mem.share(to=friend.apid, space=99999)
    await owner.mem.delete(rid=rid)
    with pytest.raises(ENOENT):
        await owner.mem.share(to=friend.apid, rid=rid)
    assert (await owner.mem.stat()).grants == []


@simulation
async def test_shares_end_with_the_process_they_were_for(
    world: World, owner: Agent, friend: Agent, other: Agent
) -> None:
    rid = await owner.write("x")
    await owner.mem.share(to=friend.apid)
    await friend.mem.share(to=other.apid, space=owner.space)
    assert await other.content(rid) == "x"
    friend.channel.close()
    await trio.sleep(1)
    assert (await owner.mem.stat()).grants == []
    await refused(other.mem.read, rid=rid)
