"""A kernel that only understands intents: those that it was told the programs of."""

import socket
import threading
from pathlib import Path

import msgspec

from syscalls.calls import llm
from syscalls.calls.sys import Info, Session, SystemInfo
from syscalls.errors import EngramError
from syscalls.shapes import SessionInfo
from syscalls.wire import Framer, Request, decode_request, frame

PATIENCE = 20
Plan = list[llm.Planned]


class FakeKernel:
    """Understands what it was told; notes each llm.intent."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.plans: dict[str, Plan | EngramError] = {}
        self.results: list[llm.Step] | EngramError = []
        self.reply = ""
        self.asked: list[llm.Intent] = []
        (data / "run").mkdir(parents=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(data / "run" / "kernel.sock"))
        self._listener.listen()
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=[connection]))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        framer = Framer()
        with connection:
            while data := connection.recv(65536):
                for body in framer.feed(data):
                    connection.sendall(self._answer(decode_request(body)))

    def _answer(self, request: Request) -> bytes:
        value: object
        try:
            value = self._value(request)
        except EngramError as error:
            return frame((request.seq, error.number, error.to_value()))
        return frame((request.seq, 0, value))

    def _value(self, request: Request) -> object:
        if request.number == Session.NUMBER:
            return SessionInfo(7, "shell", 0, 1, 9, 0.0, True, [])
        if request.number == Info.NUMBER:
            return SystemInfo("0", 1, 1, 0.0, 0.0, str(self.data), 7, 7, 1, [], [])
        assert request.number == llm.Intent.NUMBER
        call = msgspec.msgpack.decode(request.arguments, type=llm.Intent)
        self.asked.append(call)
        if not call.execute:
            plan = self.plans.get(call.text, [])
            if isinstance(plan, EngramError):
                raise plan
            return llm.Understood(plan, [], self.reply if not plan else "")
        if isinstance(self.results, EngramError):
            raise self.results
        return llm.Understood(call.program or [], self.results, self.reply)
