"""What a reader that was too slow is told: lines of log and trace, bytes of output."""

import io
from pathlib import Path

from syscalls.shapes import Output
from userland.bin.trace import Gaps
from userland.context import Context
from userland.foreground import missing
from userland.screen import PlainScreen


def gaps(counted: bool, *, json: bool = False) -> tuple[Gaps, io.StringIO]:
    out = io.StringIO()
    context = Context(Path("unused"), json=json, screen=PlainScreen(out))
    return Gaps(context, counted=counted), out


def test_a_gap_in_the_numbers_is_told_where_it_is() -> None:
    seen, out = gaps(counted=True)
    for seq in (5, 6, 9, 10, 12):
        seen.before(seq)
    assert out.getvalue() == "[2 lines lost]\n[1 lines lost]\n"
    seen.report(3)  # what the kernel counts in all is no news
    seen.report(4)
    assert out.getvalue().endswith("[1 lines lost]\n[1 lines lost]\n")


def test_with_a_filter_only_the_kernel_knows() -> None:
    seen, out = gaps(counted=False)
    for seq in (5, 9):
        seen.before(seq)
    assert out.getvalue() == ""
    seen.report(7)
    assert out.getvalue() == "[7 lines lost]\n"


def test_as_json_it_is_an_object() -> None:
    seen, out = gaps(counted=True, json=True)
    seen.before(1)
    seen.before(3)
    assert out.getvalue() == '{"lost":1}\n'


def test_output_that_is_no_longer_kept() -> None:
    assert missing(0, Output(apid=3, at=0, data=b"x")) == b""
    assert missing(10, Output(apid=3, at=300, data=b"x")) == b"[290 bytes of output lost]\n"
