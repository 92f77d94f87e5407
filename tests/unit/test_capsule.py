"""Capsules: out and in again, every field; whatever is cut off or altered is refused whole."""

import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.contracts import Batch, Bucket
from drivers.store.changes import BUCKETS
from drivers.store.memory import MemoryStore
from syscalls import capsule
from syscalls.calls.capsule import Import, Imported, Redact
from syscalls.calls.mem import Update
from syscalls.capsule import Entry, Frame, Past, Revision, Sealer, Unsealer, decode
from syscalls.errors import ECONFLICT, EDQUOT, EINVAL, EIO, ENOENT
from syscalls.records import Evidence, Fact, Note
from tests.clock import HandClock
from ums.blobs import Blobs
from ums.capsule.desk import Capsules
from ums.living import Reason
from ums.records import Stored
from ums.spaces import Spaces


class Machine:
    """A store with spaces, blobs and capsules."""

    def __init__(self, seed: int) -> None:
        self.clock = HandClock()
        self.store = MemoryStore()
        self.random = Random(seed)
        self.spaces = Spaces(self.store, self.clock, self.random)
        self.blobs = Blobs(self.store, self.clock, self.random)
        self.changed: list[int] = []
        self.desk = Capsules(
            self.store, self.spaces, self.blobs, self.clock, self.random, self.changed.append
        )

    async def space(self, name: str = "home") -> int:
        return await self.spaces.create(5, name)

    async def put(self, space: int, *notes: Note) -> list[str]:
        written = await self.spaces.open(space).write_many(notes, 5)
        return [one.rid for one in written]

    async def export(self, space: int, *rules: Redact, **how: Any) -> tuple[bytes, Any]:
        export = await self.desk.export(space, rules, how.pop("allows", None))
        data = b"".join([piece.data async for piece in export.pieces(**how)])
        return data, export.reply()

    async def keep(self, space: int, data: bytes, cut: int = capsule.PIECE) -> str:
        """Upload a blob; returns its name."""
        name = f"sha256:{sha256(data).hexdigest()}"
        for at in range(0, max(1, len(data)), cut):
            await self.blobs.upload(space, name, len(data), at, data[at : at + cut])
        return name

    async def take(self, space: int, data: bytes, limit: int | None = None, **how: Any) -> Imported:
        name = await self.keep(space, data)
        return await self.desk.take(space, 9, Import(capsule=name, **how), limit)

    def dump(self) -> dict[Bucket, dict[bytes, bytes]]:
        """All that the store holds but for the uploads."""
        found = {bucket: dict(self.store.scan(bucket, b"\0", b"\xff" * 40)) for bucket in BUCKETS}
        del found["blobs"]
        return found


def note(content: str = "text", **fields: Any) -> Note:
    return Note(**{"segment": "semantic", "content": content, **fields})


PICTURE = bytes(range(256)) * 2500  # three pieces


async def filled(machine: Machine) -> tuple[int, dict[str, str]]:
    """A space with something of every kind."""
    space = await machine.space()
    home = machine.spaces.open(space)
    picture = await machine.keep(space, PICTURE)
    (source,) = await machine.put(space, note("Ada lives in Oslo since May.", taint="user"))
    machine.clock.time += 1
    (fact,) = await machine.put(
        space,
        note(
            "Ada lives in Oslo",
            fact=Fact("Ada", "lives_in", "Oslo"),
            evidence=[Evidence(source, 0, 17, "Ada lives in Oslo")],
            sources=[source],
            taint="model",
        ),
    )
    machine.clock.time += 1
    (newer,) = await machine.put(
        space, note("Ada moved to Rome", fact=Fact("Ada", "lives_in", "Rome"))
    )
    (doc,) = await machine.put(
        space,
        note(
            "图片", segment="episodic", key="doc", tags=["a", "b"], kind="document",
            meta={"blob": picture, "n": [1, {"x": None}]}, importance=0.25, ttl=1e6,
        ),
    )  # fmt: skip
    machine.clock.time += 1
    await home.update(Update(rid=doc, content="图片, improved"), 5)
    pinned, away = await machine.put(space, note("pinned"), note("archived " * 20))
    await home.pin(pinned, Reason("because"))
    await home.archive(away, Reason("old"))
    (gone,) = await machine.put(space, note("a secret that was deleted"))
    await home.delete(gone, 5)
    names = {"source": source, "fact": fact, "newer": newer, "doc": doc}
    return space, {**names, "pinned": pinned, "away": away, "gone": gone}


def test_every_field_of_a_record_has_its_place_in_a_capsule() -> None:
    """A field that is added to records and not here would be lost without a word."""
    stored = set(Stored.__struct_fields__) - {"idempotency"}
    assert stored == set(Revision.__struct_fields__)


async def test_a_space_comes_out_and_in_again_with_everything() -> None:
    one, two = Machine(1), Machine(2)
    space, rids = await filled(one)
    data, told = await one.export(space)
    assert (told.records, told.versions, told.facts, told.blobs) == (6, 2, 2, 1)
    assert (told.bytes, told.missing) == (len(data), [])
    await two.space("other")
    target = await two.space()
    done = await two.take(target, data)
    assert (done.records, done.known, done.versions, done.facts) == (6, 0, 2, 2)
    assert (done.blobs, done.seal) == (1, told.seal)
    there, here = one.spaces.open(space), two.spaces.open(target)
    assert here.info().records == there.info().records == 5
    assert here.info().bytes > 0 and two.changed == [target]
    for name in ("source", "fact", "newer", "doc", "pinned", "away"):
        was, now = there.read(rids[name]), here.read(here.renamed(rids[name]))
        assert now.writer == 9 and now.call == "mem.import" and now.space == target
        for field in msgspec.structs.fields(type(was)):
            if field.name in ("rid", "space", "writer", "call"):
                continue
            if field.name == "state" and was.state == "activated":
                continue
            left, right = getattr(was, field.name), getattr(now, field.name)
            if field.name == "sources":
                left = [here.renamed(rid) for rid in left]
            if field.name in ("supersedes", "superseded_by"):
                left = here.renamed(left)
            if field.name == "evidence":
                left = [Evidence(here.renamed(e.rid), e.start, e.stop, e.quote) for e in left]
            assert left == right, (name, field.name)
    assert here.read(here.renamed(rids["fact"])).superseded_by == here.renamed(rids["newer"])
    assert here.find("doc").content == "图片, improved"
    history = here.history(here.renamed(rids["doc"]))
    assert [one.content for one in history] == ["图片", "图片, improved"]
    with pytest.raises(ENOENT):
        here.read(here.renamed(rids["gone"]))
    assert b"secret" not in data
    got = b""
    while piece := two.desk.download(target, here.renamed(rids["doc"]), len(got)).data:
        got += piece
    assert got == PICTURE
    await here.restore(here.renamed(rids["away"]), Reason("again"))
    assert here.read(here.renamed(rids["away"])).content == "archived " * 20
    # The fact still knows what it claimed: when the newer one goes, it holds again.
    await here.delete(here.renamed(rids["newer"]), 9)
    assert here.read(here.renamed(rids["fact"])).valid_to is None


async def test_lineage_works_on_after_an_import() -> None:
    one, two = Machine(1), Machine(2)
    space, rids = await filled(one)
    target = await two.space()
    await two.take(target, (await one.export(space))[0])
    here = two.spaces.open(target)
    await here.delete(here.renamed(rids["source"]), 9)
    while await here.spread() >= 0:
        pass
    assert "gone" in here.read(here.renamed(rids["fact"])).stale


async def test_the_same_again_adds_nothing_and_brings_nothing_back() -> None:
    one, two = Machine(1), Machine(2)
    space, rids = await filled(one)
    data, _ = await one.export(space)
    target = await two.space()
    await two.take(target, data)
    await two.spaces.open(target).delete(two.spaces.open(target).renamed(rids["pinned"]), 9)
    before = two.dump()
    done = await two.take(target, data)
    assert (done.records, done.known) == (0, 6)
    assert two.dump() == before
    # What comes home is known there, and so is what never left.
    back, _ = await two.export(target)
    (more,) = await two.put(target, note("new over there"))
    assert (await one.take(space, back)).records == 0
    assert (await one.take(space, data)).records == 0
    third, _ = await two.export(target)
    done = await one.take(space, third)
    home = one.spaces.open(space)
    assert (done.records, home.read(home.renamed(more)).content) == (1, "new over there")


async def test_it_is_taken_into_a_space_that_has_records() -> None:
    one, two = Machine(1), Machine(2)
    space, _ = await filled(one)
    target = await two.space()
    await two.put(target, note("mine", key="doc"), note("Bo lives here"))
    done = await two.take(target, (await one.export(space))[0], taint="tool")
    here = two.spaces.open(target)
    assert (done.records, done.unnamed, here.info().records) == (6, 1, 7)
    assert here.find("doc").content == "mine"
    (record,) = [r for r in await here.newest(50) if r.meta.get("key") == "doc"]
    assert (record.content, record.key, record.taint) == ("图片, improved", "", "tool")


async def test_a_snapshot_and_a_fork_export_what_they_show() -> None:
    one, two = Machine(1), Machine(2)
    space, rids = await filled(one)
    copy = await one.spaces.branch(space, 5, "kept", sealed=True)
    home = one.spaces.open(space)
    await home.update(Update(rid=rids["doc"], content="changed since"), 5)
    await home.delete(rids["source"], 5)
    whole, told = await one.export(copy)
    assert (await one.export(copy))[0] == whole
    assert (told.records, told.blobs) == (6, 1)
    target = await two.space()
    await two.take(target, whole)
    assert two.spaces.open(target).find("doc").content == "图片, improved"
    later, told = await one.export(space)
    assert told.records == 5
    fresh = await two.space("later")
    await two.take(fresh, later)
    assert two.spaces.open(fresh).find("doc").content == "changed since"


# --- broken ones


async def small(seed: int = 1) -> bytes:
    """A capsule with one of each."""
    machine = Machine(seed)
    space = await machine.space()
    name = await machine.keep(space, b"an original")
    (rid,) = await machine.put(space, note("one", meta={"blob": name}))
    await machine.put(space, note("two", sources=[rid], fact=Fact("a", "is", "b")))
    await machine.spaces.open(space).update(Update(rid=rid, content="three"), 5)
    data, _ = await machine.export(space)
    return data


FUZZ = settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])


def broken(data: bytes, draw: Callable[[Any], Any]) -> bytes:
    """A capsule that is not whole: cut, flipped, longer, a stretch moved, doubled or gone."""
    kind = draw(st.sampled_from(["cut", "flip", "add", "drop", "double", "swap"]))
    at = int(draw(st.integers(0, len(data) - 1)))
    size = int(draw(st.integers(1, 400)))
    if kind == "cut":
        return data[:at]
    if kind == "flip":
        flipped = data[at] ^ int(draw(st.integers(1, 255)))
        return data[:at] + bytes([flipped]) + data[at + 1 :]
    if kind == "add":
        return data[:at] + bytes(draw(st.binary(min_size=1, max_size=50))) + data[at:]
    if kind == "drop":
        return data[:at] + data[at + size :]
    if kind == "double":
        return data[:at] + data[at : at + size] + data[at:]
    return (
        data[:at] + data[at + size : at + 2 * size] + data[at : at + size] + data[at + 2 * size :]
    )


@FUZZ
@given(st.data())
async def test_whatever_is_broken_is_refused_whole(data: st.DataObject) -> None:
    whole = await small()
    bad = broken(whole, data.draw)
    machine = Machine(7)
    target = await machine.space()
    await machine.put(target, note("mine"))
    before = machine.dump()
    if bad == whole:
        assert (await machine.take(target, bad)).records == 2
        return
    with pytest.raises(EINVAL):
        await machine.take(target, bad)
    assert machine.dump() == before
    info = machine.spaces.open(target).info()
    assert (info.records, machine.blobs.statistics().damaged) == (1, 0)


async def test_every_single_byte_and_every_length_counts() -> None:
    whole = await small()
    for at in range(len(whole)):
        for bad in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            cut = Unsealer()
            with pytest.raises(EINVAL):
                cut.feed(bad)
                cut.finish()


def frames(data: bytes) -> list[Frame]:
    cut = Unsealer()
    found = cut.feed(data)
    cut.finish()
    return found


def sealed(found: list[Frame]) -> bytes:
    """Frames with seals that hold: what a forger could make."""
    sealer = Sealer()
    return capsule.MAGIC + b"".join(sealer.frame(one.kind, one.payload) for one in found)


def _edit(found: list[Frame], kind: str, change: Any) -> list[Frame]:
    done = []
    for one in found:
        if one.kind == kind:
            value = msgspec.msgpack.decode(one.payload)
            change(value)
            one = Frame(kind, msgspec.msgpack.encode(value))  # noqa: PLW2901
        done.append(one)
    return done


@pytest.mark.parametrize(
    "forge",
    [
        lambda f: f[1:],
        lambda f: [f[0], *f],
        lambda f: [one for one in f if one.kind != "V"],
        lambda f: [one for one in f if one.kind != "P"],
        lambda f: [one for one in f if one.kind != "B"],
        lambda f: [f[0], *[o for o in f if o.kind == "R"], *[o for o in f if o.kind not in "HR"]],
        lambda f: _edit(f, "E", lambda v: v.update(records=5)),
        lambda f: _edit(f, "R", lambda v: v.update(rid="not a rid")),
        lambda f: _edit(f, "R", lambda v: v.update(segment="other")),
        lambda f: _edit(f, "R", lambda v: v["revision"].update(content="")),
        lambda f: _edit(f, "R", lambda v: v["revision"].update(importance=7)),
        lambda f: _edit(f, "R", lambda v: v["revision"].update(sources=["x"])),
        lambda f: _edit(f, "R", lambda v: v["revision"].update(supersedes="x")),
        lambda f: _edit(f, "V", lambda v: v["revision"].update(version=9)),
        lambda f: _edit(f, "B", lambda v: v.update(size=3)),
        lambda f: [Frame("P", b"AN original") if one.kind == "P" else one for one in f],
        lambda f: [*f[:-1], Frame("R", b"\xc1"), f[-1]],
        lambda f: f[:-1],
    ],
)
async def test_forged_capsules_are_refused(forge: Any) -> None:
    bad = sealed(forge(frames(await small())))
    machine = Machine(7)
    target = await machine.space()
    before = machine.dump()
    with pytest.raises(EINVAL):
        await machine.take(target, bad)
    assert machine.dump() == before


async def test_a_forger_is_found_by_the_seal_that_was_told() -> None:
    whole = await small()
    forged = sealed(_edit(frames(whole), "R", lambda v: v["revision"].update(content="lies")))
    machine = Machine(7)
    target = await machine.space()
    seal = whole[-32:].hex()
    with pytest.raises(EINVAL, match="another capsule"):
        await machine.take(target, forged, seal=seal)
    assert machine.spaces.open(target).info().records == 0
    assert (await machine.take(target, whole, seal=seal)).records == 2


async def test_a_capsule_that_does_not_fit_is_refused_before_anything_is_taken() -> None:
    machine = Machine(7)
    target = await machine.space()
    await machine.put(target, note("mine"))
    before = machine.dump()
    whole = await small()
    with pytest.raises(EDQUOT):
        await machine.take(target, whole, limit=2)
    assert machine.dump() == before
    assert (await machine.take(target, whole, limit=3)).records == 2
    assert (await machine.take(target, whole, limit=3)).known == 2


async def test_any_bytes_in_any_pieces_never_break_the_reader() -> None:
    random = Random(3)
    whole = await small()
    for _ in range(200):
        cut = Unsealer()
        at, found = 0, []
        while at < len(whole):
            size = random.randint(1, 300)
            found += cut.feed(whole[at : at + size])
            at += size
        cut.finish()
        assert [one.kind for one in found] == [one.kind for one in frames(whole)]
    assert isinstance(decode(frames(whole)[-3]), Entry | Past)


def test_the_reader_of_the_manual_reads_a_capsule(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "capsules.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# reader.py\n(.*?)```", page, re.S)
    (tmp_path / "reader.py").write_text(code)
    whole = trio.run(small)
    for data, fine in ((whole, True), (whole[:-40], False), (whole[:-1] + b"?", False)):
        (tmp_path / "x.capsule").write_bytes(data)
        words = [sys.executable, "-I", "reader.py", "x.capsule"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == fine
        assert not fine or done.stdout.split() == ["three", "two"]


# --- resuming


async def test_an_export_goes_on_where_it_was_interrupted() -> None:
    one = Machine(1)
    space, _ = await filled(one)
    whole, told = await one.export(space)
    for at in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1, len(whole)):
        rest, again = await one.export(space, at=at, digest=sha256(whole[:at]).hexdigest())
        assert whole[:at] + rest == whole and again == told
    with pytest.raises(ECONFLICT):
        await one.export(space, at=100, digest=sha256(b"x").hexdigest())
    with pytest.raises(ECONFLICT):
        await one.export(space, at=len(whole) + 1, digest="")
    await one.put(space, note("more"))
    half = len(whole) - 50
    with pytest.raises(ECONFLICT):
        await one.export(space, at=half, digest=sha256(whole[:half]).hexdigest())


async def test_an_import_that_was_interrupted_is_finished_by_asking_again() -> None:
    one, two = Machine(1), Machine(2)
    space = await one.space()
    await one.put(space, *(note(f"record {n}") for n in range(200)))
    data, _ = await one.export(space)
    target = await two.space()
    commit, left = two.store.commit, [12]

    async def failing(batch: Batch) -> list[int]:
        if left[0] == 0:
            raise EIO("the disk is full", driver="store")
        left[0] -= any(bucket == "records" for bucket, _, _ in batch.puts)
        return await commit(batch)

    left[0] = 2
    two.store.commit = failing  # type: ignore[method-assign]
    with pytest.raises(EIO):
        await two.take(target, data)
    part = two.spaces.open(target).info().records
    assert 0 < part < 200
    two.store.commit = commit  # type: ignore[method-assign]
    done = await two.take(target, data)
    assert (done.records, done.known) == (200 - part, part)
    assert two.spaces.open(target).info().records == 200


# --- leaving out


async def test_what_is_redacted_is_not_there_nor_what_was_made_from_it() -> None:
    one = Machine(1)
    space = await one.space()
    (secret,) = await one.put(
        space, note("The launch code is nine four seven two eight.", tags=["secret"])
    )
    (made,) = await one.put(space, note("code known", sources=[secret]))
    (deep,) = await one.put(space, note("a third hand", sources=[made]))
    await one.put(space, note("He wrote: the  LAUNCH code is nine four seven two eight. Good."))
    (kept,) = await one.put(space, note("the launch is in May"))
    (other,) = await one.put(space, note("tooled", taint="tool", meta={"for": "boss"}))
    data, told = await one.export(space, Redact(tags=["secret"]), Redact(taint="tool"))
    assert told.records == 1
    assert [(o.rule, o.records, o.derived) for o in told.left] == [
        ("tag secret", 1, 3),
        ("taint tool", 1, 0),
    ]
    assert decode(frames(data)[0]).left == told.left
    for word in (b"nine four", b"third hand", b"code known", b"tooled"):
        assert word not in data
    for rid in (secret, made, deep, other):
        assert rid.encode() not in data
    assert kept.encode() in data
    _, told = await one.export(space, Redact(meta={"for": "boss"}))
    assert (told.records, told.left[0].records) == (5, 1)


async def test_an_earlier_version_that_is_redacted_takes_the_record_along() -> None:
    one = Machine(1)
    space = await one.space()
    (rid,) = await one.put(space, note("my password is swordfish", tags=["secret"]))
    await one.spaces.open(space).update(Update(rid=rid, content="cleaned up", tags=["fine"]), 5)
    data, told = await one.export(space, Redact(tags=["secret"]))
    assert told.records == 0 and b"swordfish" not in data


async def test_only_what_may_be_read_goes_out() -> None:
    one = Machine(1)
    space, _ = await filled(one)
    data, told = await one.export(space, allows=lambda _rid, stored: "pinned" in stored.content)
    assert (told.records, told.blobs) == (1, 0)
    assert "图片".encode() not in data


async def test_a_missing_original_is_named_and_the_rest_goes_out() -> None:
    one, two = Machine(1), Machine(2)
    space, _ = await filled(one)
    piece = one.store.scan("blobs", b"#", b"$")[1]
    await one.store.commit(Batch([("blobs", piece[0], piece[1][:-1] + b"!")]))
    data, told = await one.export(space)
    assert (told.records, told.blobs, len(told.missing)) == (6, 0, 1)
    assert one.blobs.statistics().damaged == 1
    target = await two.space()
    await two.take(target, data)
    here = two.spaces.open(target)
    with pytest.raises(EIO, match="missing"):
        two.desk.download(target, here.find("doc").rid, 0)
