"""Page out and page in: working memory as it is for one context, and the memory fault.

    mem.context                   working memory over its bound ──> episodic; then assemble
    llm.generate(memory="auto")   last user message ── search ──> minus what is there already
                                  ──> as marked data before that message ──> usage.paged

The fault never fails a generation: without a search, or room, nothing is paged in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kernel import monitor, trap
from kernel.context import LEAST, Part, fitted, shortened
from kernel.counting import Counter
from kernel.mind.prompt import block, escaped
from syscalls.calls import mem
from syscalls.errors import EPERM, EngramError
from syscalls.shapes import Paged
from ums.working import estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.llm.contract import GenerateRequest
    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.records import Hit, Record
    from syscalls.shapes import Level

RECALLED = 10
"""Hits that a context is offered."""
FAULTED = 8
"""Records that one memory fault pages in, at most."""
KEPT = 4
"""Of the bound of working memory three parts in so many are kept when it is reached, so that
paging out, and with it a new prefix, is rare; the newest part in so many always stays."""
PATIENCE = 3.0
"""Seconds that the fault waits for the embedder before it searches without."""
QUERY = 4000
"""Characters of a message that are searched for: the last ones, where the question is."""
SOURCE = "memory that fits the question"


# --- mem.context


async def working_context(kernel: Kernel, caller: Process, call: mem.ContextCall) -> mem.Context:
    """The caller's working context. Raises EINVAL, EPERM."""
    space = await monitor.space(kernel, caller, None, "mem.read", "read")
    paged_out = await _page_out(kernel, caller, space)
    laid = await kernel.memory.working.laid(space)
    hits: list[Hit] = []
    if call.query:
        look = mem.Search(query=call.query[-QUERY:], k=RECALLED)
        hits = (await trap.execute(kernel, caller, look)).hits
    counter = Counter(kernel.llm)
    made = await fitted(kernel.policy, laid, hits, call.query, call.budget_tokens, counter)
    shown = [record for record in (*laid.pinned, *laid.working) if record.rid in made.shown]
    kernel.memory.echoes.hand(caller.apid, [record.content for record in shown])
    kernel.memory.handed.note(caller.apid, shown)
    return mem.Context(
        messages=made.messages,
        tokens=made.tokens,
        exact=made.exact,
        shown=made.shown,
        cut=made.cut,
        left=made.left,
        paged_out=paged_out,
    )


async def _page_out(kernel: Kernel, caller: Process, space: int) -> list[str]:
    """Keep working memory within its bound; rids of what went to episodic memory."""
    bound = kernel.settings.working_tokens
    records = (await kernel.memory.working.laid(space)).working
    sizes = {record.rid: estimate(record.content) for record in records}
    used = sum(sizes.values())
    if used <= bound:
        return []
    leaving = []
    for record in _least_wanted(kernel, records, sizes, bound // KEPT):
        if used <= bound - bound // KEPT:
            break
        leaving.append(record)
        used -= sizes[record]
    try:
        await monitor.space(kernel, caller, None, "mem.write", "write")
        moved = await kernel.memory.working.page_out(space, leaving, caller.apid)
    except EPERM:
        return []  # it stays in working memory, and the context names what it leaves out
    kernel.log("debug", "memory", f"space {space}: {len(moved)} records were paged out")
    return moved


def _least_wanted(
    kernel: Kernel, records: Sequence[Record], sizes: dict[str, int], newest: int
) -> list[str]:
    """Rids in the order in which they leave; the newest ones leave last."""
    recent: list[str] = []
    for record in reversed(records):
        if newest < sizes[record.rid]:
            break
        newest -= sizes[record.rid]
        recent.append(record.rid)
    older = [record for record in records if record.rid not in recent]
    wanted = kernel.policy.page_in(older, len(older))
    return [*reversed(wanted), *reversed(recent)]


# --- llm.generate(memory="auto")


async def fault(
    kernel: Kernel, caller: Process, request: GenerateRequest, budget: int
) -> list[Paged]:
    """Page into a request what it needs and lacks; what that was, best first.

    The records are put before the last user message, or before the prompt.
    """
    query = _question(request)
    if not query.strip():
        return []
    try:
        look = mem.Search(query=query[-QUERY:], k=2 * FAULTED, explain=True, deadline=PATIENCE)
        hits = (await trap.execute(kernel, caller, look)).hits
    except EngramError as error:
        level: Level = "debug" if isinstance(error, EPERM) else "warning"
        kernel.log(level, "memory", f"nothing is paged in for apid {caller.apid}: {error.message}")
        return []
    counter = Counter(kernel.llm)
    attached = kernel.pins.shown_to(caller)
    there = request.prompt or "\n".join(each.content for each in request.messages or [])
    there = "\n".join([*(each.content for each in attached), there])
    asked = await _size(counter, request)
    used = asked + await counter.messages(attached)
    context = kernel.llm.info.context if kernel.llm.info else budget + used + request.max_tokens
    budget = min(budget, context - request.max_tokens - used)
    chosen, paged = await _choose(hits, query, there, budget, counter)
    while chosen:
        tried = _with(request, block(SOURCE, chosen, 1 << 40))
        if await _size(counter, tried) - asked <= budget:
            request.messages, request.prompt = tried.messages, tried.prompt
            break
        chosen.pop()
        paged.pop()
    return paged


async def _choose(
    hits: Sequence[Hit], query: str, there: str, budget: int, counter: Counter
) -> tuple[list[str], list[Paged]]:
    """Contents, and what is said of them, of the hits that the text lacks and that fit."""
    part = Part(SOURCE, budget)
    left = budget - part.open()
    chosen: list[str] = []
    paged: list[Paged] = []
    for hit in hits:
        if len(chosen) == FAULTED or left < LEAST:
            break
        if hit.content in there or escaped(hit.content)[1:-1] in there or hit.content in chosen:
            continue
        text = hit.content
        size = await counter.text(escaped(text)) + 1
        if size > left and not chosen:
            text = shortened(hit.rid, hit.content, left // 2)
            size = await counter.text(escaped(text)) + 1
        if text and size <= left:
            left -= size
            chosen.append(text)
            paged.append(Paged(hit.rid, size, _why(hit, query)))
    return chosen, paged


def _question(request: GenerateRequest) -> str:
    """What is searched for: the last user message, or the prompt."""
    if request.prompt is not None:
        return request.prompt
    users = [each.content for each in request.messages or [] if each.role == "user"]
    return users[-1] if users else ""


def _with(request: GenerateRequest, data: str) -> GenerateRequest:
    """The request with a block before its question; a system message in the middle of a
    conversation is what many chat templates refuse."""
    from msgspec.structs import replace

    if request.prompt is not None:
        return replace(request, prompt=f"{data}\n\n{request.prompt}")
    messages = list(request.messages or [])
    at = max(i for i, each in enumerate(messages) if each.role == "user")
    messages[at] = replace(messages[at], content=f"{data}\n\n{messages[at].content}")
    return replace(request, messages=messages)


async def _size(counter: Counter, request: GenerateRequest) -> int:
    if request.prompt is not None:
        return await counter.text(request.prompt)
    return await counter.messages(request.messages or [])


def _why(hit: Hit, query: str) -> str:
    """Which signals found a record, strongest first, and the words that it shares."""
    signals = []
    if hit.parts is not None:
        values = {name: getattr(hit.parts, name) for name in hit.parts.__struct_fields__}
        numbers = {name: part for name, part in values.items() if isinstance(part, float) and part}
        ranked = sorted(numbers, key=lambda name: -abs(numbers[name]))
        signals = [f"{name} {numbers[name]:.2f}" for name in ranked]
    words = set(re.findall(r"\w{3,}", query.lower())) & set(
        re.findall(r"\w{3,}", hit.content.lower())
    )
    why = f"found by {', '.join(signals)}" if signals else "found by the last user message"
    return f"{why}; shares {', '.join(sorted(words)[:6])}" if words else why
