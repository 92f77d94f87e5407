"""The link between the kernel and a driver host: nothing lost, twice, or out of order."""

from __future__ import annotations

import stat
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
import zmq

from drivers.link import Link
from drivers.port import PATH_LIMIT, BrokenLink, Port, connect, listen, socket_path
from drivers.protocol import Address, Chunk, Hello, Ping, Pong, Stop, decode, encode, pack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def context() -> Iterator[Context]:
    made: Context = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture(params=["ipc", "tcp"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "tcp":
        return "tcp://127.0.0.1:*"
    return f"ipc://{socket_path(tmp_path / 'run', 'test.sock')}"


@asynccontextmanager
async def linked(context: Context, url: str, hwm: int = 1000) -> AsyncIterator[tuple[Link, Link]]:
    """A kernel's and a host's end that have heard of each other."""
    port, address = listen(context, url, hwm=hwm)
    kernel, host = Link(port), Link(connect(context, address, hwm=hwm))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(kernel.run)
            await nursery.start(host.run)
            await host.send(Ping(0))
            assert await kernel.receive() == Ping(0)
            yield kernel, host
            nursery.cancel_scope.cancel()
    kernel.close()
    host.close()


@pytest.mark.parametrize("hwm", [1, 1000])
async def test_full_duplex_under_stress(context: Context, url: str, hwm: int) -> None:
    """With a high-water mark of one both ends stall all the time, and nothing is lost."""
    count = 3000

    async def send(link: Link) -> None:
        for number in range(count):
            await link.send(Chunk(number, pack(b"x" * (number % 700))))

    async def receive(link: Link) -> None:
        for number in range(count):
            assert await link.receive() == Chunk(number, pack(b"x" * (number % 700)))

    async with linked(context, url, hwm) as (kernel, host):
        async with trio.open_nursery() as nursery:
            for link in (kernel, host):
                nursery.start_soon(send, link)
                nursery.start_soon(receive, link)
        assert kernel.statistics().received == count + 1
        assert host.statistics().received == count
        assert kernel.statistics().outbox == host.statistics().outbox == 0


async def test_many_senders_and_readers_share_a_link(context: Context, url: str) -> None:
    got: list[int] = []

    async def send(first: int) -> None:
        for number in range(first, first + 200):
            await kernel.send(Ping(number))

    async def receive() -> None:
        while len(got) < 1000:
            message = await host.receive()
            assert isinstance(message, Ping)
            got.append(message.beat)
            if len(got) == 1000:
                readers.cancel_scope.cancel()

    async with linked(context, url, hwm=1) as (kernel, host), trio.open_nursery() as readers:
        for _ in range(3):
            readers.start_soon(receive)
        for first in range(0, 1000, 200):
            readers.start_soon(send, first)
    assert sorted(got) == list(range(1000))


async def test_a_full_inbox_holds_the_sender_back(context: Context, tmp_path: Path) -> None:
    """A reader that pauses bounds what is queued, and loses nothing."""
    async with linked(context, f"ipc://{tmp_path}/s", hwm=1) as (kernel, host):
        with trio.move_on_after(0.5) as scope:
            while True:
                await kernel.send(Chunk(kernel.statistics().sent, pack(b"x" * 65536)))
        assert scope.cancelled_caught
        limit = host.statistics().inbox
        waiting = kernel.statistics().sent + kernel.statistics().outbox
        assert limit <= 256
        for _ in range(waiting):
            await host.receive()


async def test_a_dead_peer_breaks_the_link_for_everyone(context: Context, tmp_path: Path) -> None:
    port, address = listen(context, f"ipc://{tmp_path}/s")
    kernel, host = Link(port), connect(context, address)
    host.post(Ping(1))
    host.turn()

    async def breaks(wait: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(BrokenLink):
            await wait()

    async def talk() -> None:
        while True:
            await kernel.send(Pong(1))
            await trio.sleep(0.01)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks, kernel.run)
            assert await kernel.receive() == Ping(1)
            nursery.start_soon(breaks, kernel.receive)
            await trio.testing.wait_all_tasks_blocked()
            host.close()
            nursery.start_soon(breaks, talk)
    kernel.close()


async def test_nonsense_breaks_the_link(context: Context, tmp_path: Path) -> None:
    port, address = listen(context, f"ipc://{tmp_path}/s")
    kernel, host = Link(port), connect(context, address)
    host.socket.send(b"\xc1 not msgpack")
    with trio.fail_after(20):
        with pytest.raises(BrokenLink, match="no message"):
            await kernel.run()
        with pytest.raises(BrokenLink):
            await kernel.receive()
    kernel.close()
    host.close()


async def test_a_stranger_is_not_heard(context: Context, url: str) -> None:
    port, address = listen(context, url)
    keys = (address.server_key, address.public_key, address.secret_key)
    kernel = Link(port)
    stranger = connect(context, Address(address.url, b"\x01who?", *keys))
    friend = connect(context, address)
    stranger.socket.send(encode(Stop()))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(kernel.run)
            while not kernel.statistics().strangers:  # noqa: ASYNC110 - a counter, no event
                await trio.sleep(0.01)
            friend.socket.send(encode(Ping(5)))
            assert await kernel.receive() == Ping(5)
            nursery.cancel_scope.cancel()
    for end in (kernel, friend, stranger):
        end.close()


async def test_without_the_keys_nothing_arrives(context: Context) -> None:
    port, address = listen(context, "tcp://127.0.0.1:*")
    public, secret = (key.decode() for key in zmq.curve_keypair())
    other = zmq.curve_keypair()[0].decode()
    kernel = Link(port)
    guesser = connect(context, Address(address.url, address.token, other, public, secret))
    friend = connect(context, address)
    guesser.socket.send(encode(Stop()))
    friend.socket.send(encode(Ping(1)))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(kernel.run)
            assert await kernel.receive() == Ping(1)
            nursery.cancel_scope.cancel()
    assert kernel.statistics().received == 1
    for end in (kernel, friend, guesser):
        end.close()


async def test_closing_wakes_whoever_waits(context: Context, tmp_path: Path) -> None:
    port, _ = listen(context, f"ipc://{tmp_path}/s")
    link = Link(port)
    with trio.fail_after(20), pytest.RaisesGroup(trio.ClosedResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.receive)
            await trio.testing.wait_all_tasks_blocked()
            link.close()
            link.close()


def test_messages_survive_the_wire() -> None:
    for message in (Hello(pack({"a": 1}), 3), Chunk(1, pack("x")), Stop(), Ping(2)):
        assert decode(encode(message)) == message


def test_a_socket_has_a_private_folder(tmp_path: Path) -> None:
    path = socket_path(tmp_path / "run", "x.sock")
    assert path.parent == tmp_path / "run"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_long_path_is_replaced_by_a_short_one(tmp_path: Path, context: Context) -> None:
    path = socket_path(tmp_path / ("long" * 40), "x.sock")
    assert len(str(path)) <= PATH_LIMIT
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    port, _ = listen(context, f"ipc://{path}")
    assert isinstance(port, Port)
    port.close()
    path.unlink(missing_ok=True)
    path.parent.rmdir()
