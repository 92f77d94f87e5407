"""Keeps the records of documents as the files are.

    file is...      new        changed          the same    moved           gone
    document        written    a new version    -           under its       archived,
    chunks          written    new versions,    -           new path        and back when
                               the rest erased                              the file is

A document is a record of kind ``document`` with the key ``doc:PATH``; its chunks are of kind
``chunk``, name it among their sources, and have the keys ``chunk:ID#NUMBER``. That is all
there is to know: no list is kept beside them, so that whoever looks at the same folder goes
on where another stopped. A document's hash is written last: one that is without was being
worked on, and is done again.

What a file says is nobody's word: its records have the taint ``tool``; a caption that a model
gave to a picture has ``model``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from syscalls.calls.life import Archive
from syscalls.calls.mem import Delete, Read, Update, WriteMany
from syscalls.errors import EINVAL, EIO, CallerFault, EngramError
from syscalls.records import Note, Record
from userland.documents.caption import CAPTION, caption
from userland.documents.chunk import OVERLAP, SIZE, Chunk, chunks
from userland.documents.extract import Extracted, extract
from userland.documents.original import Ask, name_of, upload
from userland.documents.tree import Found, Rules, look

if TYPE_CHECKING:
    from syscalls.table import Call

PAGE = 100
"""Notes of one call."""
LONGEST_PATH = 390
"""Bytes of a path: it is part of a key."""


class Options(msgspec.Struct, frozen=True):
    """How documents are kept."""

    rules: Rules = Rules()
    original: bool = True
    """Whether the file itself is kept, too."""
    size: int = SIZE
    overlap: int = OVERLAP
    archive: bool = True
    """Whether a file that is gone has its document archived."""


class Outcome(msgspec.Struct, omit_defaults=True):
    """What came of one file."""

    path: str
    what: str
    """added, updated, moved, restored, archived, unchanged, failed."""
    chunks: int = 0
    note: str = ""
    """Why it failed, or what is missing."""


Told = Callable[[Outcome, int, int], None]
"""Told of each file, its place and how many there are."""


class Sync:
    """One space and some folders."""

    def __init__(self, ask: Ask, options: Options = Options()) -> None:  # noqa: B008 - frozen
        self._ask = _line(ask)
        self._options = options

    def run(self, root: Path, told: Told = lambda _outcome, _place, _count: None) -> list[Outcome]:
        """Do what has to be done for a file or folder. Raises ENOENT for none.

        A file that fails is told of, and the rest goes on; what the kernel is to blame for
        is raised.
        """
        root = Path(os.path.abspath(root))
        tree = look(root, self._options.rules)
        documents = self._documents(root)
        gone = {
            path: one
            for path, one in documents.items()
            if not os.path.lexists(path) and not _within(path, tree.lost)
        }
        outcomes: list[Outcome] = []
        count = len(tree.files) + len(gone)
        for found in tree.files.values():
            outcome = self._guarded(found, documents.get(found.path), gone)
            outcomes.append(outcome)
            told(outcome, len(outcomes), count)
        for path, document in gone.items():
            outcome = self._left(path, document)
            outcomes.append(outcome)
            told(outcome, len(outcomes), count)
        for folder in tree.lost:
            outcomes.append(Outcome(folder, "failed", note="the folder cannot be looked into"))
        return outcomes

    def _documents(self, root: Path) -> dict[str, Record]:
        """The documents of a root by their paths, archived ones too."""
        prefix = f"doc:{root}"
        inside = prefix.rstrip("/") + "/"
        found = self._named(prefix)
        return {
            one.key[4:]: one for one in found if one.key == prefix or one.key.startswith(inside)
        }

    def _named(self, prefix: str) -> Iterator[Record]:
        after = ""
        while True:
            page = self._ask(Read(prefix=prefix, after=after, limit=PAGE)).records
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].key

    # --- one file

    def _guarded(self, found: Found, document: Record | None, gone: dict[str, Record]) -> Outcome:
        try:
            return self._file(found, document, gone)
        except CallerFault as error:  # the file's fault, not the kernel's
            return Outcome(found.path, "failed", note=error.message)
        except OSError as error:
            return Outcome(found.path, "failed", note=f"it cannot be read: {error.strerror}")

    def _file(self, found: Found, document: Record | None, gone: dict[str, Record]) -> Outcome:
        path = Path(found.path)
        try:
            fits = len(found.path.encode()) <= LONGEST_PATH
        except UnicodeEncodeError as error:
            raise EINVAL(f"the name of {found.path!a} is not in UTF-8") from error
        if not fits:
            raise EINVAL(f"its path has more than {LONGEST_PATH} bytes")
        if found.size > self._options.rules.largest:
            raise EINVAL(f"it has {found.size} bytes, {self._options.rules.largest} is the most")
        away = document is not None and document.state in ("archived", "merged")
        if document is not None and not away and _same(document, found):
            return Outcome(found.path, "unchanged", document.meta.get("chunks", 0))
        name, size = name_of(path)
        meta = {"hash": name, "size": size, "stamp": found.stamp}
        if document is not None and document.meta.get("hash") == name:
            if away:
                self._back(document)
            self._finish(document, meta)
            what = "restored" if away else "unchanged"
            return Outcome(found.path, what, document.meta.get("chunks", 0))
        moved = next((p for p, one in gone.items() if one.meta.get("hash") == name), None)
        if document is None and moved is not None:
            return self._move(found.path, gone.pop(moved), meta)
        told = extract(path, self._options.rules.largest)
        if told.mute:
            told = caption(self._ask, path, told)
        return self._write(path, document, told, meta)

    def _write(
        self, path: Path, document: Record | None, told: Extracted, meta: dict[str, Any]
    ) -> Outcome:
        """Write a document that is new, or that says something else now."""
        name, size = str(meta["hash"]), int(meta["size"])
        mark = document.meta.get("id", "") if document is not None else ""
        mark = mark or sha256(f"{path}|{name}|{meta['stamp']}".encode()).hexdigest()[:16]
        about = {**told.meta, "path": str(path), "format": told.kind, "id": mark}
        if told.title:
            about["title"] = told.title
        if told.note:
            about["note"] = told.note
        if self._options.original:
            upload(self._ask, path, name, size)
            about["blob"] = name
        cut = chunks(told.parts, self._options.size, self._options.overlap)
        rid = self._put(path, about)
        common = {"path": str(path), "hash": name}
        if CAPTION in about:
            common[CAPTION] = about[CAPTION]
        self._chunks(mark, rid, cut, common)
        self._ask(Update(rid=rid, meta={**about, **meta, "chunks": len(cut)}))
        what = "added" if document is None else "updated"
        return Outcome(str(path), what, len(cut), told.note)

    def _put(self, path: Path, about: dict[str, Any]) -> str:
        """Write the record of a document, not finished; its rid."""
        note = Note(
            segment="semantic",
            content=f"{path.name}\n{path}",
            kind="document",
            key=f"doc:{path}",
            meta=about,
            taint="tool",
        )
        return str(self._ask(WriteMany(notes=[note])).written[0].rid)

    def _finish(self, document: Record, meta: dict[str, Any]) -> None:
        if any(document.meta.get(name) != value for name, value in meta.items()):
            self._ask(Update(rid=document.rid, meta={**document.meta, **meta}))

    def _chunks(self, mark: str, rid: str, cut: list[Chunk], common: dict[str, Any]) -> None:
        """Bring the chunks of a document from what they are to what they should be."""
        old = sorted(self._named(f"chunk:{mark}#"), key=lambda one: one.meta.get("number", 0))
        numbers = [int(one.key.rpartition("#")[2]) for one in old]
        fresh = max(numbers, default=-1) + 1
        keys: list[tuple[int, Record | None]] = []
        erase: list[Record] = []
        texts = [one.content for one in old], [one.text for one in cut]
        for _, a, b, c, d in SequenceMatcher(None, *texts, autojunk=False).get_opcodes():
            for place in range(d - c):
                if a + place < b:
                    keys.append((numbers[a + place], old[a + place]))
                else:
                    keys.append((fresh, None))
                    fresh += 1
            erase += old[a + (d - c) : b]
        notes: list[Note] = []
        for place, (chunk, (number, known)) in enumerate(zip(cut, keys, strict=True)):
            note = _note(mark, number, rid, chunk, {**common, "number": place})
            if known is None or not _says(known, note):
                notes.append(note)
        for start in range(0, len(notes), PAGE):
            self._ask(WriteMany(notes=notes[start : start + PAGE]))
        for record in erase:
            self._ask(Delete(rid=record.rid))

    # --- moved, gone, back

    def _move(self, path: str, document: Record, meta: dict[str, Any]) -> Outcome:
        """The file has another path now: its records go along, with their rids and history."""
        if document.state in ("archived", "merged"):
            self._back(document)
        self._retarget(path, document, {**document.meta, **meta, "path": path})
        return Outcome(path, "moved", document.meta.get("chunks", 0), f"from {document.key[4:]}")

    def _retarget(self, path: str, old: Record, about: dict[str, Any]) -> None:
        unfinished = {name: value for name, value in about.items() if name != "hash"}
        rid = self._put(Path(path), unfinished)
        for chunk in self._named(f"chunk:{old.meta.get('id', '')}#"):
            self._ask(Update(rid=chunk.rid, meta={**chunk.meta, "path": path}, sources=[rid]))
        self._ask(Update(rid=rid, meta=about))
        self._ask(Delete(rid=old.rid))

    def _left(self, path: str, document: Record) -> Outcome:
        """A file is gone."""
        if document.state in ("archived", "merged") or not self._options.archive:
            return Outcome(path, "unchanged", note="the file is gone")
        records = [*self._named(f"chunk:{document.meta.get('id', '')}#"), document]
        kept = [self._archived(one, restore=False) for one in records]
        note = next((why for why in kept if why), "")
        return Outcome(path, "archived", len(records) - 1, note)

    def _back(self, document: Record) -> None:
        for one in [document, *self._named(f"chunk:{document.meta.get('id', '')}#")]:
            self._archived(one, restore=True)

    def _archived(self, record: Record, *, restore: bool) -> str:
        """Archive a record or have it back; why it stays as it is, where it does."""
        if (record.state in ("archived", "merged")) != restore:
            return ""
        try:
            self._ask(Archive(rid=record.rid, restore=restore))
        except EngramError as error:
            if not isinstance(error, CallerFault):
                raise
            return error.message
        return ""


def _line(ask: Ask) -> Ask:
    """Tell a line that is down from a file that cannot be read."""

    def asking(call: Call) -> Any:
        try:
            return ask(call)
        except OSError as error:
            raise EIO(f"the kernel cannot be asked: {error}", driver="kernel") from error

    return asking


def _same(document: Record, found: Found) -> bool:
    meta = document.meta
    known = bool(meta.get("hash"))
    return known and meta.get("size") == found.size and meta.get("stamp") == found.stamp


def _note(mark: str, number: int, rid: str, chunk: Chunk, common: dict[str, Any]) -> Note:
    meta = {**common, "offset": chunk.offset}
    if chunk.page:
        meta["page"] = chunk.page
    if chunk.heading:
        meta["heading"] = chunk.heading[:400]
    return Note(
        segment="semantic",
        content=chunk.text,
        kind="chunk",
        key=f"chunk:{mark}#{number:06d}",
        meta=meta,
        sources=[rid],
        taint="model" if CAPTION in meta else "tool",
    )


def _says(record: Record, note: Note) -> bool:
    """Whether a record is already as a note would make it; the file's hash does not count."""
    old = {name: value for name, value in record.meta.items() if name != "hash"}
    new = {name: value for name, value in note.meta.items() if name != "hash"}
    return (record.content, old, record.sources) == (note.content, new, note.sources) and (
        record.state not in ("archived", "merged")
    )


def _within(path: str, folders: list[str]) -> bool:
    return any(path.startswith(folder + os.sep) for folder in folders)
