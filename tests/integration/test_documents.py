"""Files become records and stay in step: a real kernel, real files of every kind."""

import csv
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syscalls.calls.mem import History, Read, Search
from syscalls.calls.proc import OutputCall
from syscalls.errors import EIO, EngramError
from syscalls.records import Record
from tests.harness import BOUND, RunningKernel, running
from userland.cli import main
from userland.client import BlockingClient
from userland.documents.original import download
from userland.documents.sync import Options, Outcome, Sync
from userland.documents.tree import Rules

POEM = "\n\n".join(
    f"Paragraph {n}: the heron of number {n} stands in the river and waits." for n in range(60)
)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    with running(tmp_path_factory.mktemp("documents") / "data") as served:
        yield served


@pytest.fixture
def client(kernel: RunningKernel) -> Iterator[BlockingClient]:
    with kernel.client() as one:
        yield one


# --- files of every kind, made here


def make_pdf(path: Path, pages: list[str], password: str = "") -> None:
    """A PDF with real text, written by hand; encrypted by pypdf where a password is given."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    kids = []
    for text in pages:
        lines = " T* ".join(f"({line}) Tj" for line in text.split("\n"))
        stream = f"BT /F1 12 Tf 14 TL 50 700 Td {lines} ET".encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        content = len(objects)
        font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 %s >> >> >>" % (content, font)
        )
        kids.append(len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (
        b" ".join(b"%d 0 R" % kid for kid in kids),
        len(kids),
    )
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        len(objects) + 1,
        table,
    )
    path.write_bytes(data)
    if password:
        pypdf: Any = pytest.importorskip("pypdf")
        writer = pypdf.PdfWriter(clone_from=str(path))
        writer.encrypt(password, algorithm="RC4-128")
        writer.write(str(path))


def make_docx(path: Path) -> None:
    docx: Any = pytest.importorskip("docx")
    document = docx.Document()
    document.core_properties.title = "Field guide"
    document.add_heading("Birds", 1)
    document.add_paragraph("The kingfisher dives for minnows at dawn.")
    document.add_heading("Owls", 2)
    document.add_paragraph("The tawny owl hunts voles by night.")
    table = document.add_table(rows=2, cols=2)
    for row, cells in zip(table.rows, [("bird", "eggs"), ("wren", "six")], strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    document.save(str(path))


def make_png(path: Path) -> None:
    image: Any = pytest.importorskip("PIL.Image")
    image.new("RGB", (32, 20), (200, 10, 10)).save(str(path))


# --- what is asked


def sync(client: BlockingClient, root: Path, **options: Any) -> dict[str, Outcome]:
    found = Sync(client.call, Options(**options)).run(root)
    return {Path(one.path).name: one for one in found}


def records(client: BlockingClient, prefix: str) -> list[Record]:
    found: list[Record] = client.call(Read(prefix=prefix, limit=1000)).records
    return found


def document(client: BlockingClient, path: Path) -> Record:
    found: Record = client.call(Read(key=f"doc:{path}")).records[0]
    return found


def chunks(client: BlockingClient, path: Path) -> list[Record]:
    mark = document(client, path).meta["id"]
    found = records(client, f"chunk:{mark}#")
    return sorted(found, key=lambda one: int(one.meta["number"]))


def whats(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: one.what for name, one in outcomes.items()}


# --- every kind


def test_a_text_is_cut_with_overlap_and_every_chunk_knows_its_place(
    client: BlockingClient, tmp_path: Path
) -> None:
    path = tmp_path / "poem.txt"
    path.write_text(POEM)
    assert whats(sync(client, tmp_path)) == {"poem.txt": "added"}
    about, cut = document(client, path), chunks(client, path)
    assert about.kind == "document" and about.taint == "tool"
    assert about.meta["chunks"] == len(cut) > 3
    end = 0
    for one in cut:
        at = one.meta["offset"]
        assert POEM[at : at + len(one.content)] == one.content
        assert at <= end and len(one.content) <= 1200
        assert (one.kind, one.sources, one.taint) == ("chunk", [about.rid], "tool")
        assert one.meta["path"] == str(path) and one.meta["hash"] == about.meta["hash"]
        assert one.content.startswith(("Paragraph", "the", "heron", "of", "number")) or at
        end = at + len(one.content)
    assert end == len(POEM)
    hits = client.call(Search(query="heron of number 47", k=3)).hits
    assert "number 47" in hits[0].content and hits[0].meta["path"] == str(path)


def test_markdown_html_csv_know_headings_and_columns(
    client: BlockingClient, tmp_path: Path
) -> None:
    (tmp_path / "a.md").write_text(
        "# Guide\n\nHello.\n\n## Setup\n\n```\n# no heading\n```\nRun it.\n\n# End\nBye."
    )
    (tmp_path / "b.html").write_text(
        "<html><head><title>My  page</title><style>p{}</style></head><body><nav>menu</nav>"
        "<h1>Rivers</h1><p>The Oder &amp; the <b>Elbe</b>.<h2>Lakes</h2><ul><li>M&uuml;ritz"
        "<script>evil()</script></ul></body></html>"
    )
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["name", "role"], ["Ada", 'chief; of "all"'], ["Bo", ""]])
    assert set(whats(sync(client, tmp_path)).values()) == {"added"}
    cut = chunks(client, tmp_path / "a.md")
    assert [one.meta["heading"] for one in cut] == ["Guide", "Guide > Setup", "End"]
    assert "# no heading" in cut[1].content
    assert document(client, tmp_path / "a.md").meta["title"] == "Guide"
    page = chunks(client, tmp_path / "b.html")
    assert [one.meta["heading"] for one in page] == ["Rivers", "Rivers > Lakes"]
    assert "The Oder & the Elbe." in page[0].content and "Müritz" in page[1].content
    text = " ".join(one.content for one in page)
    assert "menu" not in text and "evil" not in text
    assert document(client, tmp_path / "b.html").meta["title"] == "My page"
    (table,) = chunks(client, tmp_path / "c.csv")
    assert table.content.split("\n") == ['name: Ada; role: chief; of "all"', "name: Bo"]
    assert document(client, tmp_path / "c.csv").meta["columns"] == ["name", "role"]


def test_pdf_and_docx_know_pages_and_headings(client: BlockingClient, tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    make_pdf(tmp_path / "trip.pdf", ["We left Lisbon\nat noon.", "", "Porto was cold."])
    make_docx(tmp_path / "birds.docx")
    assert set(whats(sync(client, tmp_path)).values()) == {"added"}
    pages = chunks(client, tmp_path / "trip.pdf")
    assert [(one.meta["page"], one.content) for one in pages] == [
        (1, "We left Lisbon\nat noon."),
        (3, "Porto was cold."),
    ]
    assert document(client, tmp_path / "trip.pdf").meta["pages"] == 3
    cut = chunks(client, tmp_path / "birds.docx")
    assert [one.meta["heading"] for one in cut] == ["Birds", "Birds > Owls"]
    assert "minnows" in cut[0].content and "wren | six" in cut[1].content
    assert document(client, tmp_path / "birds.docx").meta["title"] == "Field guide"


def test_a_picture_is_kept_and_says_what_is_missing(
    client: BlockingClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "red_square.png"
    make_png(path)
    monkeypatch.setattr("userland.documents.picture.shutil.which", lambda _name: None)
    assert "tesseract is not installed" in sync(client, tmp_path)["red_square.png"].note
    about = document(client, path)
    assert (about.meta["width"], about.meta["height"], about.meta["encoding"]) == (32, 20, "png")
    assert "red square" in chunks(client, path)[0].content
    copy = tmp_path / "copy"
    assert download(client.call, about.rid, copy) == path.stat().st_size
    assert copy.read_bytes() == path.read_bytes()
    with pytest.raises(EngramError, match="is there already"):
        download(client.call, about.rid, copy)


def test_a_picture_is_read_where_tesseract_is(
    client: BlockingClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_png(tmp_path / "sign.png")
    program = tmp_path / "bin" / "tesseract"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'NO SWIMMING'\n")
    program.chmod(0o755)
    monkeypatch.setattr("userland.documents.picture.shutil.which", lambda _name: str(program))
    assert sync(client, tmp_path / "sign.png")["sign.png"].note == ""
    assert chunks(client, tmp_path / "sign.png")[0].content == "NO SWIMMING"


def test_what_cannot_be_read_says_why_and_the_rest_goes_on(
    client: BlockingClient, tmp_path: Path
) -> None:
    pytest.importorskip("pypdf")
    pytest.importorskip("docx")
    pytest.importorskip("PIL")
    good = tmp_path / "good.txt"
    good.write_text("All is well in the state of Denmark.")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.txt").write_text(" \n\t\n")
    (tmp_path / "garbage.txt").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "garbage.bin").write_bytes(b"\x7fELF" + bytes(100))
    (tmp_path / "big.txt").write_text("x" * 5000)
    make_pdf(tmp_path / "locked.pdf", ["secret"], "hunter2")
    (tmp_path / "torn.pdf").write_bytes(b"%PDF-1.4\n1 0 obj\n<< /Type")
    make_pdf(tmp_path / "scan.pdf", [""])
    (tmp_path / "torn.docx").write_bytes(b"PK\x03\x04 not a zip")
    (tmp_path / "old.docx").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    with zipfile.ZipFile(tmp_path / "other.docx", "w") as packed:
        packed.writestr("a.txt", "no document")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (tmp_path / "link.txt").symlink_to(good)
    outcomes = sync(client, tmp_path, rules=Rules(largest=4000))
    assert "link.txt" not in outcomes
    said = {name: one.note for name, one in outcomes.items() if one.what == "failed"}
    wanted = {
        "empty.txt": "empty",
        "blank.txt": "blanks",
        "garbage.txt": "not text",
        "garbage.bin": "not text",
        "big.txt": "4000 is the most",
        "locked.pdf": "encrypted",
        "torn.pdf": "damaged",
        "scan.pdf": "scanned",
        "torn.docx": "damaged",
        "old.docx": "encrypted",
        "other.docx": "damaged",
        "torn.png": "damaged",
    }
    assert {name: word for name, word in wanted.items() if word not in said.get(name, "")} == {}
    assert set(said) == set(wanted)
    assert outcomes["good.txt"].what == "added"


# --- in step


def test_a_changed_file_is_a_new_version_and_what_is_gone_from_it_is_erased(
    client: BlockingClient, tmp_path: Path
) -> None:
    path = tmp_path / "notes.txt"
    lines = [f"Note {n} about the harbour. " * 12 for n in range(8)]
    path.write_text("\n\n".join(lines))
    sync(client, tmp_path, size=400, overlap=0)
    before = {one.rid: one for one in chunks(client, path)}
    assert whats(sync(client, tmp_path, size=400, overlap=0)) == {"notes.txt": "unchanged"}
    lines[2] = "Note 2 is about the lighthouse now. " * 9
    del lines[6]
    path.write_text("\n\n".join(lines))
    assert whats(sync(client, tmp_path, size=400, overlap=0)) == {"notes.txt": "updated"}
    after = {one.rid: one for one in chunks(client, path)}
    assert len(after) == 7 and set(after) < set(before)
    (rid,) = [rid for rid in after if after[rid].content != before[rid].content]
    assert "lighthouse" in after[rid].content
    history = client.call(History(rid=rid)).versions
    assert history[0].content == before[rid].content and len(history) == 2
    assert [one.version for one in chunks(client, path)] == [1, 1, 2, 2, 2, 2, 2]  # they moved
    assert not any(one.stale for one in after.values())
    texts = [one.content for one in chunks(client, path)]
    assert texts == [line.strip() for line in lines]


def test_a_file_that_is_gone_is_archived_and_back_when_it_is(
    client: BlockingClient, tmp_path: Path
) -> None:
    path, other = tmp_path / "will.txt", tmp_path / "stay.txt"
    path.write_text("The zeppelin timetable is in the blue cupboard.")
    other.write_text("Nothing happens here.")
    sync(client, tmp_path)
    away = tmp_path.parent / "away.txt"
    path.rename(away)
    assert whats(sync(client, tmp_path)) == {"stay.txt": "unchanged", "will.txt": "archived"}
    assert document(client, path).state == "archived"
    assert [one.state for one in chunks(client, path)] == ["archived"]
    hits = client.call(Search(query="zeppelin timetable", k=5)).hits
    assert not any("zeppelin" in hit.content for hit in hits)
    assert whats(sync(client, tmp_path))["will.txt"] == "unchanged"
    away.rename(path)
    assert whats(sync(client, tmp_path)) == {"stay.txt": "unchanged", "will.txt": "restored"}
    (chunk,) = chunks(client, path)
    assert chunk.state != "archived" and not chunk.stale
    hits = client.call(Search(query="zeppelin timetable", k=5)).hits
    assert any(hit.rid == chunk.rid for hit in hits)
    path.unlink()
    sync(client, tmp_path)
    path.write_text("The zeppelin has left.")
    assert whats(sync(client, tmp_path))["will.txt"] == "updated"
    assert [one.content for one in chunks(client, path)] == ["The zeppelin has left."]


def test_a_file_that_moved_takes_its_records_along(client: BlockingClient, tmp_path: Path) -> None:
    path, new = tmp_path / "a.txt", tmp_path / "sub" / "b.txt"
    path.write_text(POEM)
    sync(client, tmp_path)
    before = [one.rid for one in chunks(client, path)]
    new.parent.mkdir()
    path.rename(new)
    outcomes = sync(client, tmp_path)
    assert whats(outcomes) == {"b.txt": "moved"} and "a.txt" in outcomes["b.txt"].note
    moved = chunks(client, new)
    assert [one.rid for one in moved] == before
    about = document(client, new)
    assert {one.meta["path"] for one in moved} == {str(new)}
    assert {tuple(one.sources) for one in moved} == {(about.rid,)}
    assert not any(one.stale for one in moved)
    with pytest.raises(EngramError):
        document(client, path)
    assert whats(sync(client, tmp_path)) == {"b.txt": "unchanged"}


def test_work_that_was_interrupted_is_done_again(client: BlockingClient, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(POEM)
    made = 0

    def failing(call: Any) -> Any:
        nonlocal made
        made += 1
        if made > 4:
            raise ConnectionError("the cable was pulled")
        return client.call(call)

    with pytest.raises(EIO, match="cable"):
        Sync(failing).run(tmp_path)
    assert whats(sync(client, tmp_path))["long.txt"] in ("added", "updated")
    assert len(chunks(client, path)) == document(client, path).meta["chunks"]
    assert whats(sync(client, tmp_path)) == {"long.txt": "unchanged"}


def test_ignored_files_are_left_out(client: BlockingClient, tmp_path: Path) -> None:
    for name in ("a.txt", ".hidden.txt", "b.log", "deep/c.txt", "deep/skip/d.txt", ".git/config"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"This is {name}.")
    (tmp_path / ".engramignore").write_text("*.log  # noise\ndeep/skip\n")
    assert sorted(sync(client, tmp_path)) == ["a.txt", "c.txt"]
    assert "config" not in sync(client, tmp_path, rules=Rules(hidden=True))


# --- commands


def command(kernel: RunningKernel, *words: str) -> int:
    return main(["--data", str(kernel.data), *words])


def test_ingest_export_import_from_the_command_line(
    kernel: RunningKernel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tide.md").write_text("# Tides\n\nHigh water at Brest is at six.")
    (folder / "bad.pdf").write_bytes(b"%PDF-1.4 nothing")
    assert command(kernel, "--space", "harbour", "mem", "ingest", str(folder)) == 1
    shown = capsys.readouterr().out
    assert "tide.md" in shown and "damaged" in shown and "1 failed, 1 added" in shown
    (folder / "bad.pdf").unlink()
    assert command(kernel, "--space", "harbour", "mem", "ingest", str(folder)) == 0
    file = tmp_path / "harbour.capsule"
    (tmp_path / "harbour.capsule.part").write_bytes(b"ENGRAM junk of another time")
    assert command(kernel, "mem", "export", "--space", "harbour", str(file)) == 0
    assert not (tmp_path / "harbour.capsule.part").exists()
    assert command(kernel, "--space", "harbour", "mem", "export", str(file)) == 2  # is there
    capsys.readouterr()
    assert command(kernel, "--space", "elsewhere", "mem", "import", str(file)) == 0
    assert "2 records taken" in capsys.readouterr().out
    assert command(kernel, "--space", "elsewhere", "mem", "import", str(file)) == 0
    assert "0 records taken, 2 were known" in capsys.readouterr().out
    assert command(kernel, "--space", "elsewhere", "mem", "search", "high water at Brest") == 0
    assert "High water" in capsys.readouterr().out
    file.write_bytes(file.read_bytes()[:-1])
    assert command(kernel, "--space", "third", "mem", "import", str(file)) == 2
    assert "cut off" in capsys.readouterr().err
    assert command(kernel, "--space", "third", "mem", "stat") == 0


def test_a_link_is_never_written_through(
    kernel: RunningKernel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "x.capsule").symlink_to(victim)
    (tmp_path / "y.capsule.part").symlink_to(victim)
    for name in ("x.capsule", "y.capsule"):
        assert command(kernel, "mem", "export", str(tmp_path / name)) != 0
    assert victim.read_text() == "precious"
    capsys.readouterr()


def test_a_mounted_folder_is_followed_also_after_a_crash(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "one.txt").write_text("The password of the boathouse is walnut.")
    with running(tmp_path / "data") as kernel:
        words = ["--space", "home", "mem", "mount", "--every", "0.1", str(folder)]
        assert command(kernel, *words) == 0
        _until(kernel, folder / "one.txt", lambda found: found.meta.get("hash"))
        (folder / "two.txt").write_text("A second note, about geese.")
        _until(kernel, folder / "two.txt", lambda found: found.meta.get("hash"))
        kernel.kill()
        (folder / "one.txt").write_text("The password of the boathouse is chestnut.")
        (folder / "two.txt").unlink()
        kernel.reboot()  # init starts it again; who mounts it again is told so
        assert command(kernel, *words) == 0
        _until(kernel, folder / "two.txt", lambda found: found.state == "archived")
        with kernel.client() as client:
            client.sys.session(space="home")
            (chunk,) = chunks(client, folder / "one.txt")
            assert "chestnut" in chunk.content and chunk.version == 2
            (mounted,) = [p for p in client.proc.list().processes if p.program == "folder"]
            output = client.call(OutputCall(target=mounted.apid)).data.decode()
            assert "updated" in output and "archived" in output


def _until(kernel: RunningKernel, path: Path, done: Callable[[Record], Any]) -> None:
    """Wait until a document is as it should be."""
    deadline = time.monotonic() + BOUND
    with kernel.client() as client:
        client.sys.session(space="home")
        while True:
            found = [one for one in records(client, f"doc:{path}") if done(one)]
            if found:
                return
            assert time.monotonic() < deadline, records(client, "doc:")
            time.sleep(0.05)


def test_the_kernel_reads_no_document() -> None:
    """What parses files of strangers is not in the kernel's process."""
    code = "import sys, kernel.boot, kernel.kernel; print([m for m in sys.modules if m in "
    code += "('pypdf', 'docx', 'PIL', 'lxml')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
