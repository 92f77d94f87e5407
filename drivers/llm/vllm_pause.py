"""Generations of vLLM that stand still: preempted as vLLM itself does it, and kept back.

    running ── suspend ──> preempted, out of the scheduler's queues ── resume ──> waiting

vLLM preempts a request when it is short of blocks: it frees them, keeps the request with all
its tokens, its grammar and its sampler, and computes it again later. Its full blocks stay in
the prefix cache until they are evicted, so that most of it is not computed. An abort and a new
request would lose the grammar's and the sampler's state; priorities would let it go on at once.
There is no call for this, so the scheduler's own queues are used, of the pinned version.
"""

from __future__ import annotations

import time
from typing import Any


class Paused:
    """The requests of one engine that are suspended."""

    def __init__(self, engine: Any) -> None:
        """``engine`` is a ``LLMEngine`` whose core is in this process."""
        self._engine = engine
        self._kept: dict[str, Any] = {}
        """Requests of the scheduler that are in none of its queues, by their given names."""
        self._wanted: set[str] = set()
        """Those that could not be taken out yet: their blocks are being loaded."""

    @property
    def _scheduler(self) -> Any:
        return self._engine.engine_core.engine_core.scheduler

    def suspend(self, name: str, *, on: bool) -> None:
        """Take a request out of the scheduler, or put it back."""
        if on:
            self._wanted.add(name)
            self.step()
            return
        self._wanted.discard(name)
        if (request := self._kept.pop(name, None)) is not None:
            self._scheduler.waiting.prepend_request(request)

    def forget(self, name: str) -> None:
        """A request has ended or was aborted."""
        self._wanted.discard(name)
        self._kept.pop(name, None)

    def step(self) -> None:
        """Take out those that can be now; between two steps of the engine."""
        for name in list(self._wanted):
            if (request := self._find(name)) is None or self._take(request):
                self._wanted.discard(name)
                if request is not None:
                    self._kept[name] = request

    def _find(self, name: str) -> Any:
        processor = self._engine.output_processor
        inner = processor.external_req_ids.get(name) or [name]
        return self._scheduler.requests.get(inner[0])

    def _take(self, request: Any) -> bool:
        from vllm.v1.request import RequestStatus

        scheduler = self._scheduler
        if request.status == RequestStatus.RUNNING:
            scheduler.running.remove(request)
            scheduler._preempt_request(request, time.monotonic())
        if request.status not in (RequestStatus.WAITING, RequestStatus.PREEMPTED):
            return False
        if request not in scheduler.waiting:
            return False  # it holds blocks without running
        scheduler.waiting.remove_request(request)
        return True

    @property
    def idle(self) -> bool:
        """Whether nothing but suspended requests is left."""
        if not self._kept:
            return False
        scheduler = self._scheduler
        running, waiting = scheduler.get_request_counts()
        others = len(scheduler.requests) - len(self._kept)
        return not (running or waiting or others or scheduler.finished_req_ids)
