"""Capabilities: what a set allows, and that narrowing never widens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syscalls.capability import ALL, CapSet, compiled, intersect, narrow
from syscalls.errors import EINVAL, EPERM
from syscalls.table import TABLE

names = sorted(TABLE.capabilities())
objects = st.sampled_from(["", ":*", ":space/1", ":space/2", ":child", ":proc/7"])
patterns = st.one_of(
    st.sampled_from(names),
    st.sampled_from(sorted({name.partition(".")[0] + ".*" for name in names})),
)
grants = st.one_of(
    st.just(ALL), st.builds(lambda pattern, object_: pattern + object_, patterns, objects)
)
grant_sets = st.frozensets(grants, max_size=6)


def allowed(caps: CapSet) -> set[tuple[str, str]]:
    """Everything a set allows, tried one by one."""
    tried = ("space/1", "space/2", "child", "proc/7", "proc/8")
    found = {(name, "own") for name in names if caps.own(name)}
    return found | {(name, item) for name in names for item in tried if caps.on(name, item)}


def test_the_forms_of_a_grant() -> None:
    caps = CapSet(["mem.read", "mem.write:space/42", "proc.signal:child", "ipc.*", "kv.*:*"])
    assert caps.own("mem.read")
    assert not caps.on("mem.read", "space/1")
    assert caps.on("mem.write", "space/42")
    assert not caps.own("mem.write")
    assert caps.may("mem.write")
    assert caps.on("proc.signal", "proc/9", "child")
    assert caps.own("ipc.recv")
    assert caps.on("kv.pin", "whatever")
    assert not caps.may("llm.generate")


def test_everything_is_everything() -> None:
    caps = CapSet([ALL])
    assert all(caps.own(name) and caps.on(name, "space/9") for name in names)
    assert CapSet([]).grants == frozenset()
    assert not any(CapSet([]).may(name) for name in names)


@pytest.mark.parametrize("grant", ["", "no.such", "mem", "mem.read:", "nogroup.*", "*.read"])
def test_a_grant_that_names_nothing_is_refused(grant: str) -> None:
    with pytest.raises(EINVAL):
        CapSet([grant])


@given(grant_sets, grant_sets)
def test_narrowing_never_widens(parent: frozenset[str], wanted: frozenset[str]) -> None:
    holder = compiled(parent)
    cut = intersect(holder, wanted)
    assert allowed(cut) <= allowed(holder)
    try:
        child = narrow(holder, wanted)
    except EPERM as error:
        assert set(error.detail["missing"]) == wanted - cut.grants
    else:
        assert child.grants == wanted
        assert allowed(child) <= allowed(holder)


@given(grant_sets)
def test_a_set_covers_itself_and_equal_sets_are_one(held: frozenset[str]) -> None:
    caps = compiled(held)
    assert all(caps.covers(grant) for grant in held)
    assert compiled(frozenset(held)) is caps
    assert CapSet(held) == caps
    assert hash(CapSet(held)) == hash(caps)
