"""The ``openai`` engine: any server that speaks OpenAI's protocol, vLLM's best of all.

    spec    MODEL@http://host:8000/v1     one model of a server
            http://host:8000/v1           the only model of a server
            MODEL                         a model of api.openai.com

The engine's thread owns an event loop and turns it while requests are open; closing the
stream of a request is what tells a server to stop generating. What is special to vLLM's
server (a salt for its prefix cache, counting tokens, adapters by name) is used where the list
of models says that it is one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import msgspec

from drivers.llm.contract import GenerateRequest, LLMInfo
from drivers.llm.flow import Flow
from drivers.llm.pictures import blind, turns
from drivers.llm.protocol import Chunk, Models, Served, Tokenized, complaint, refusal
from drivers.llm.shapes import CountArguments
from drivers.llm.tokens import check, salt_of
from syscalls.errors import EINVAL, EIO, ENODEV, ENOENT
from syscalls.shapes import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from drivers.engine import Job
    from drivers.protocol import EngineSpec

T = TypeVar("T")
OPENAI = "https://api.openai.com/v1"
CONTEXT = 32768
"""Tokens, assumed where a server does not say."""
TEMPLATE = 512
"""Tokens that a chat template may add, at most, when a bound will do."""
TICK = 0.01
"""Seconds for which the loop is turned before new calls and cancellations are looked at."""
PATIENCE = 60.0
"""Seconds that a server has to come up."""
SILENCE = 600.0
"""Seconds without a byte after which a server is given up."""


def split(spec: str) -> tuple[str, str]:
    """``(model, url)`` of a spec; the model is empty when only a server is named."""
    found = re.fullmatch(r"(?:(.*?)@)?(https?://.+)", spec)
    if found is None:
        return spec, OPENAI
    return found[1] or "", found[2].rstrip("/")


class OpenAIEngine:
    """``generate``, ``count`` and ``running`` on a model elsewhere.

    Options: ``key`` (sent to that server only), ``context`` (tokens), ``patience`` (seconds),
    ``sees`` (whether the model may be shown pictures: a server does not say).
    """

    window = 256

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._model, self._url = split(spec.model)
        self._served = Served("")
        self._context = CONTEXT
        self._sees = bool(spec.options.get("sees", False))
        self._nonce = secrets.token_hex(8)
        """Before every salt: kernels that share a server share no cache."""
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._flows: dict[int, Flow] = {}
        self._client: httpx.AsyncClient | None = None

    # --- loading

    def load(self, progress: Callable[[str], None]) -> LLMInfo:
        """Find the model on its server. Raises EIO, ENODEV."""
        logging.getLogger("httpx").setLevel(logging.WARNING)
        key = str(self._spec.options.get("key", ""))
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(30.0, read=SILENCE, pool=None),
            limits=httpx.Limits(max_connections=None),
            # A proxy is for what is elsewhere.
            mounts={"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None},
        )
        models = self._loop.run_until_complete(self._find(progress))
        wanted = [each for each in models.data if each.id == self._model]
        if not self._model and len(models.data) == 1:
            wanted = models.data
        if not wanted:
            raise ENODEV(
                f"the server {self._url} has no model {self._model!r}",
                hint=f"it has: {', '.join(each.id for each in models.data[:20]) or 'none'}",
            )
        self._served = wanted[0]
        said = self._spec.options.get("context") or self._served.max_model_len
        self._context = int(said or CONTEXT)
        return LLMInfo(
            f"{self._served.id}@{self._url}", "openai", self._context, sees=self._sees, keeps=False
        )

    async def _find(self, progress: Callable[[str], None]) -> Models:
        """The server's models; waits for one that is still starting. Raises EIO."""
        deadline = time.monotonic() + float(self._spec.options.get("patience", PATIENCE))
        while True:
            try:
                return await self._ask("GET", f"{self._url}/models", None, Models)
            except EIO as error:
                if time.monotonic() > deadline or not error.detail.get("retryable"):
                    raise
                progress(f"waiting for {self._url}")
            await asyncio.sleep(0.5)

    # --- serving

    def begin(self, job: Job) -> None:
        """Begin a request to the server. Raises EINVAL."""
        if job.method == "running":
            job.done(len(self._flows))
        elif job.method == "count":
            self._start(job, self._count(job, job.arguments(CountArguments)))
        elif job.method == "generate":
            request = job.arguments(GenerateRequest)
            check(request)
            self._check(request)
            self._flows[job.seq] = Flow(job, request.pace)
            self._start(job, self._generate(job, request))
        elif job.method in ("pin", "unpin", "drop", "held"):
            raise EINVAL(
                "the server keeps its own cache: nothing can be pinned in it from here",
                hint="have the model run on this machine, with --model FOLDER_OR_NAME",
            )
        else:
            raise EINVAL(f"this engine has no method {job.method!r}")

    def _check(self, request: GenerateRequest) -> None:
        if not self._sees:
            blind(request.messages)
        if request.grammar:
            raise EINVAL("the openai engine takes no grammars", hint="give a `schema`")
        if request.special and not self._vllm:
            raise EINVAL("this server does not show special tokens", hint="leave out `special`")

    @property
    def _vllm(self) -> bool:
        return self._served.owned_by == "vllm"

    def _start(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            with job.guard():
                await work

        def over(task: asyncio.Task[None]) -> None:
            work.close()  # one cancelled before its first step has not been awaited
            self._tasks.pop(job.seq, None)
            self._flows.pop(job.seq, None)
            if task.cancelled():
                job.cancelled()

        task = self._tasks[job.seq] = self._loop.create_task(guarded())
        task.add_done_callback(over)

    def cancel(self, job: Job) -> None:
        """Close the request's stream; it is answered when that is done."""
        if (task := self._tasks.get(job.seq)) is not None:
            task.cancel()

    @property
    def busy(self) -> bool:
        """Whether requests are open."""
        return bool(self._tasks)

    def step(self) -> None:
        """Turn the loop for a moment; pieces are sent as they come."""
        for flow in self._flows.values():
            flow.send()
        self._loop.run_until_complete(asyncio.sleep(TICK))

    def close(self) -> None:
        """Close every stream."""
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    # --- requests

    async def _generate(self, job: Job, request: GenerateRequest) -> None:
        model = await self._adapter(request.adapter) if request.adapter else self._served.id
        body = self._body(request) | {"model": model, "max_tokens": await self._room(request)}
        if request.messages is None:
            path, body["prompt"] = "completions", request.prompt
        else:
            path, body["messages"] = "chat/completions", turns(request.messages)
        assert self._client is not None, "load comes first"
        try:
            async with self._client.stream("POST", f"{self._url}/{path}", json=body) as response:
                if response.status_code != 200:
                    raise refusal(self._url, response.status_code, await response.aread())
                await self._read(self._flows[job.seq], response)
        except httpx.HTTPError as error:
            raise self._lost(error) from error

    async def _read(self, flow: Flow, response: httpx.Response) -> None:
        """Pass on a stream of server-sent events. Raises EIO."""
        finish, usage = "", Usage()
        async for line in response.aiter_lines():
            data = line.removeprefix("data:").strip()
            if data in (line, "[DONE]"):
                continue
            try:
                chunk = msgspec.json.decode(data, type=Chunk)
            except msgspec.DecodeError as error:
                raise self._foreign(error) from error
            if chunk.error is not None:
                raise complaint(self._url, chunk.error.code, chunk.error.message)
            if chunk.usage is not None:
                usage = chunk.usage.shape()
            for choice in chunk.choices:
                flow.push(choice.said())
                finish = choice.finish_reason or finish
        if not finish:
            raise EIO(f"{self._url} broke off in mid-stream", driver="llm", retryable=True)
        flow.end("", "length" if finish == "length" else "stop", usage)

    def _body(self, request: GenerateRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.stop:
            body["stop"] = request.stop
        if request.seed is not None:
            body["seed"] = request.seed
        if request.schema is not None:
            answer = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": answer}
        if self._vllm:
            body["cache_salt"] = f"{self._nonce}:{salt_of(request)}"
            body["skip_special_tokens"] = not request.special
            body["spaces_between_special_tokens"] = False
        return body

    async def _room(self, request: GenerateRequest) -> int:
        """Tokens that may be generated. Raises EINVAL where the prompt leaves none."""
        texts = [request.prompt or "", *(each.content for each in request.messages or [])]
        most = sum(len(text.encode()) for text in texts) + TEMPLATE
        pictures = any(each.images for each in request.messages or [])  # the server counts those
        if not self._vllm or pictures or most + request.max_tokens <= self._context:
            return request.max_tokens
        tokens = await self._tokenize(request.prompt, turns(request.messages))
        if tokens >= self._context:
            raise EINVAL(
                f"the prompt has {tokens} tokens, the model takes {self._context - 1}",
                hint="shorten it; `llm.count` counts tokens",
                tokens=tokens,
                limit=self._context - 1,
            )
        return min(request.max_tokens, self._context - tokens)

    async def _adapter(self, name: str) -> str:
        """The name under which a server offers an adapter. Raises ENOENT."""
        models = await self._ask("GET", f"{self._url}/models", None, Models)
        if all(each.id != name for each in models.data):
            raise ENOENT(
                f"the server {self._url} has no adapter {name!r}",
                hint="load it there, under that name",
            )
        return name

    async def _count(self, job: Job, count: CountArguments) -> None:
        if not self._vllm:
            raise ENODEV(
                f"the server {self._url} does not count tokens",
                hint="vLLM's server does; docs/models.md shows how to start one",
            )
        if not self._sees:
            blind(count.messages)
        messages = turns(count.messages)
        job.done(await self._tokenize(count.text, messages) if count.text or messages else 0)

    async def _tokenize(self, prompt: str | None, messages: list[Any] | None) -> int:
        body: dict[str, Any] = {"model": self._served.id}
        body |= {"prompt": prompt or ""} if messages is None else {"messages": messages}
        url = self._url.removesuffix("/v1") + "/tokenize"
        return (await self._ask("POST", url, body, Tokenized)).count

    async def _ask(self, method: str, url: str, body: Any, shape: type[T]) -> T:
        """One question with one answer. Raises EIO, EINVAL."""
        assert self._client is not None, "load comes first"
        try:
            response = await self._client.request(method, url, json=body)
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        if response.status_code != 200:
            raise refusal(url, response.status_code, response.content)
        try:
            return msgspec.json.decode(response.content, type=shape)
        except msgspec.DecodeError as error:
            raise self._foreign(error) from error

    def _foreign(self, error: msgspec.DecodeError) -> EIO:
        text = f"the server {self._url} does not speak OpenAI's protocol: {error}"
        return EIO(text, driver="llm", retryable=False)

    def _lost(self, error: httpx.HTTPError) -> EIO:
        what = str(error) or type(error).__name__
        return EIO(f"the server {self._url} is lost: {what}", driver="llm", retryable=True)
