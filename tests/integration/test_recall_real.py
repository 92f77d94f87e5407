"""Recall with the real parts: LMDB, indexes on disk, all-MiniLM-L6-v2 in its host."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from drivers.embedder import make_embedder
from drivers.indexes import DiskIndexes
from drivers.store.lmdb import LmdbStore, open_store
from syscalls.calls.mem import Hits, Search, Update
from syscalls.errors import ENOENT
from syscalls.records import Note
from syscalls.shapes import Level
from ums.memory import Memory

PREFERENCE = "喜欢简洁代码风格"
QUERY = "代码风格偏好"

# Other preferences, other notes about code, other styles; then everyday notes.
DISTRACTORS = """
用户偏好深色主题 | 饮食偏好：不吃辣 | 旅行时偏好靠窗的座位 | 沟通偏好是邮件而不是电话
音乐偏好：古典和爵士 | 会议时间偏好在上午 | 偏好用中文回答问题 | 通知偏好：只要紧急的
他偏好短途徒步 | 咖啡偏好：少糖 | 购物偏好国产品牌 | 阅读偏好科幻小说 | 代码评审安排在周三下午
代码仓库已经迁移到新服务器 | 单元测试的代码覆盖率要到百分之八十 | 这段代码会在周五上线
代码里有一个内存泄漏 | 旧代码下个月删除 | 登录模块的代码由小王负责 | 代码签名证书快要过期
请把代码推送到主分支 | 源代码许可证是 Apache | 代码冻结从十二月开始 | 客厅是北欧装修风格
她的写作风格很正式 | 这位画家的风格很大胆 | 老板的管理风格偏严格 | 穿衣风格休闲 | 演讲风格幽默
网站采用扁平设计风格 | 摄影风格以黑白为主 | 喜欢简单的早餐 | 喜欢简洁的房间 | 喜欢周末爬山
喜欢喝绿茶 | 不喜欢开长会 | 喜欢猫胜过狗 | The user prefers dark roast coffee
The user prefers tabs over spaces in Makefiles | Prefers trains to planes
Code review happens every Wednesday | The code name of the project is Heron
Her writing style is formal | The style guide lives in the wiki | Deploys are frozen in December
The parser crashes on empty input | Unit tests must finish in ten minutes
Alice owns the login module | The office moved to Berlin | Bob's birthday is on the third of May
The cat is called Momo | Invoices go out on the first | The server room is on the second floor
Standup is at half past nine | The database password rotates monthly
Quarterly report is due on Friday | The printer is out of toner | He is allergic to peanuts
She speaks Spanish and Japanese | The marathon is in October | 用户喜欢用 VS Code 写文档
周报用 Markdown 格式 | 服务部署在 Kubernetes 集群 | API 的限速是每分钟 100 次
把 bug 都记在 Jira 里 | 她用 Python 做数据分析 | 每天 standup 九点半开始 | README 需要中英双语
CI 失败时发 Slack 通知 | 新同事下周 onboarding | 数据库从 MySQL 换成 PostgreSQL
demo 安排在 Friday | 今天北京下雪了 | 妈妈的生日是五月三日 | 房租每月一号交 | 护照明年到期
牙医预约在周四 | 孩子在学钢琴 | 打印机没有墨了 | 服务器在二楼机房 | 合同要在月底前签
公司搬到了上海 | 航班改到了晚上八点 | 他对花生过敏 | 健身房的卡丢了 | 冰箱里没有牛奶
下周去杭州出差 | 预算还剩三万元 | 新的显示器到货了 | 车要送去保养 | 年会定在一月十日
邻居借走了梯子 | 图书馆周一闭馆 | 明天的电影票买好了 | 小区停水到下午五点 | 快递放在门卫处
手机屏幕碎了 | 代码注释要写清楚 | 代码行数超过一万 | 偏好纸质书 | 他偏好安静的酒店房间
"""


def others() -> list[str]:
    found = [part.strip() for line in DISTRACTORS.splitlines() for part in line.split("|")]
    return [part for part in found if part]


class WallClock:
    """The machine's clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def log(level: Level, source: str, text: str) -> None:
    print(f"{level} {source}: {text}")


async def in_thread(work: Any) -> Any:
    return await trio.to_thread.run_sync(work)


class System:
    """Memory on a folder, until it is closed."""

    def __init__(self, folder: Path, store: LmdbStore, embedder: Any) -> None:
        self.store = store
        self.memory = Memory(
            store,
            DiskIndexes(folder / "indexes"),
            embedder,
            WallClock(),
            Random(1),
            in_thread,
            log,
        )

    async def search(self, space: int, query: str, **fields: Any) -> Hits:
        with trio.fail_after(120):
            call = Search(query=query, **{"deadline": 60.0, **fields})
            return await self.memory.search([space], call)


class Systems:
    """Opens the same folder again and again with one embedder."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.nursery = nursery
        self._open: System | None = None

    async def embedder(self, spec: str) -> Any:
        run_dir = self.folder / "run"
        run_dir.mkdir(exist_ok=True)
        embedder = make_embedder(spec, run_dir=run_dir, log=log, clock=WallClock())
        await self.nursery.start(embedder.run)
        return embedder

    async def open(self, embedder: Any) -> System:
        await self.close()
        store = await open_store(self.folder / "store")
        self._open = System(self.folder, store, embedder)
        return self._open

    async def close(self) -> None:
        if self._open is not None:
            await self._open.memory.aclose()
            await self._open.store.aclose()
            self._open = None


@pytest.fixture
async def systems(tmp_path: Path) -> AsyncIterator[Systems]:
    async with trio.open_nursery() as nursery:
        opened = Systems(tmp_path, nursery)
        yield opened
        await opened.close()
        nursery.cancel_scope.cancel()


async def remember(system: System) -> int:
    """A space with the preference among the others, written first so that it is the oldest."""
    space = await system.memory.create_space(1)
    note = Note("semantic", PREFERENCE, "preference")
    await system.memory.write(space, 1, note)
    notes = [
        Note("semantic", text, "preference" if "偏好" in text or "prefers" in text else "note")
        for text in others()
    ]
    await system.memory.write_many(space, 1, notes)
    return space


def test_the_distractors_are_a_hundred_and_more() -> None:
    texts = others()
    assert len(set(texts)) == len(texts) >= 100
    assert PREFERENCE not in texts


@pytest.mark.model
async def test_a_preference_in_chinese_is_the_first_hit(systems: Systems) -> None:
    system = await systems.open(await systems.embedder("minilm"))
    space = await remember(system)
    hits = await system.search(space, QUERY, explain=True)
    assert hits.degraded == []
    for hit in hits.hits[:4]:
        print(hit.content, hit.score, hit.parts)
    assert hits.hits[0].content == PREFERENCE
    assert len(hits.hits) == 10
    for query, wanted in (
        ("coding style preference 代码风格", PREFERENCE),
        ("Which pet does she have?", "The cat is called Momo"),
        ("什么食物不能吃 过敏", "他对花生过敏"),
        ("where is our workplace", "The office moved to Berlin"),
        ("数据库 PostgreSQL", "数据库从 MySQL 换成 PostgreSQL"),
    ):
        found = [hit.content for hit in (await system.search(space, query)).hits]
        assert wanted in found[:3], (query, found)


async def test_words_alone_find_the_preference(systems: Systems) -> None:
    system = await systems.open(await systems.embedder("none"))
    space = await remember(system)
    hits = await system.search(space, QUERY)
    assert hits.degraded == ["dense"]
    assert hits.hits[0].content == PREFERENCE


async def test_everything_is_there_after_opening_again(systems: Systems) -> None:
    embedder = await systems.embedder("local-hash:64")
    system = await systems.open(embedder)
    memory = system.memory
    space = await memory.create_space(1, "home")
    await memory.write_many(space, 1, [Note("episodic", f"zebra{n} ran") for n in range(300)])
    kept = (await memory.write(space, 1, Note("semantic", "first", key="k"))).rid
    await memory.update(1, Update(rid=kept, content="second", expect=1))
    gone = (await memory.write(space, 1, Note("semantic", "to be erased"))).rid
    await memory.delete(1, gone)
    await memory.share(space, 7, "write", 1)
    before = await memory.stat(space)
    found = await system.search(space, "zebra77", k=1)

    system = await systems.open(embedder)
    memory = system.memory
    assert memory.resolve("home") == space
    assert memory.access(7, space) == "write"
    assert memory.read_key(space, "k").content == "second"
    assert [v.content for v in memory.history(kept)] == ["first", "second"]
    with pytest.raises(ENOENT):
        memory.read(gone)
    after = await memory.stat(space)
    assert (after.records, after.bytes, after.by_segment, after.seq) == (
        before.records,
        before.bytes,
        before.by_segment,
        before.seq,
    )
    assert await system.search(space, "zebra77", k=1) == found


async def test_garbage_in_place_of_indexes_is_replaced(systems: Systems) -> None:
    embedder = await systems.embedder("local-hash:64")
    system = await systems.open(embedder)
    space = await system.memory.create_space(1)
    notes = [Note("semantic", f"zebra{n} ran") for n in range(50)]
    await system.memory.write_many(space, 1, notes)
    found = await system.search(space, "zebra7", k=3)
    await systems.close()
    files = [path for path in (systems.folder / "indexes").rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(b"\x00garbage" * 500)
    system = await systems.open(embedder)
    assert await system.search(space, "zebra7", k=3) == found
    stat = await system.memory.stat(space)
    assert stat.indexed == {"lexical": stat.seq, "dense": stat.seq}


async def test_sixty_four_tasks_lose_no_increment(systems: Systems) -> None:
    from syscalls.errors import ECONFLICT

    system = await systems.open(await systems.embedder("none"))
    memory = system.memory
    space = await memory.create_space(1)
    rid = (await memory.write(space, 1, Note("working", "counter", meta={"n": 0}))).rid

    async def increment() -> None:
        while True:
            record = memory.read(rid)
            call = Update(rid=rid, meta={"n": record.meta["n"] + 1}, expect=record.version)
            try:
                await memory.update(1, call)
            except ECONFLICT:
                continue
            return

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(increment)
    assert memory.read(rid).meta == {"n": 64}
