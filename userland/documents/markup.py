"""HTML: its words under its headings, without scripts, styles and navigation."""

from html.parser import HTMLParser
from pathlib import Path

from userland.documents.extract import Extracted, Part, Unreadable
from userland.documents.plain import decoded

_SILENT = frozenset({"script", "style", "noscript", "template", "svg", "nav", "head"})
_BLOCKS = frozenset(
    {
        "p", "div", "section", "article", "header", "footer", "main", "aside", "ul", "ol", "li",
        "table", "tr", "pre", "blockquote", "br", "hr", "dl", "dt", "dd", "figure", "figcaption",
        "form",
    }
)  # fmt: skip
_HEADINGS = {f"h{depth}": depth for depth in range(1, 7)}


class _Reader(HTMLParser):
    """Collects parts; forgiving, as browsers are."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[Part] = []
        self.title = ""
        self._above: list[str] = []
        self._words: list[str] = []
        self._heading: list[str] = []
        self._within = 0
        self._silent: list[str] = []
        self._titled = False
        self._plain = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._titled = True
        elif tag in _SILENT:
            self._silent.append(tag)
        elif tag == "body":
            self._silent.clear()
        elif tag in _HEADINGS:
            self._within, self._heading = _HEADINGS[tag], []
        elif tag in _BLOCKS:
            self._words.append("\n")
        self._plain += tag == "pre"
        if tag in ("td", "th"):
            self._words.append(" ")
        if tag == "img":
            said = dict(attrs).get("alt") or ""
            self._words.append(f" {said} ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._titled = False
        elif tag in self._silent:
            while self._silent.pop() != tag:
                pass  # what was left open inside it ends with it
        elif tag in _HEADINGS and self._within:
            self.close_part()
            said = " ".join("".join(self._heading).split())
            if said:
                self._above = [*self._above[: self._within - 1], said]
                self._words.append(said + "\n")
            self._within = 0
        elif tag in _BLOCKS:
            self._words.append("\n")
        self._plain -= tag == "pre" and self._plain > 0

    def handle_data(self, data: str) -> None:
        if self._titled:
            self.title += data
        elif self._silent:
            return
        elif self._within:
            self._heading.append(data)
        else:
            self._words.append(data if self._plain else data.replace("\n", " "))

    def close_part(self) -> None:
        """End the part that was being read."""
        lines = [" ".join(line.split()) for line in "".join(self._words).split("\n")]
        text = "\n".join(line for line in lines if line)
        heading = " > ".join(self._above)
        if text and text != (self._above[-1] if self._above else ""):
            self.parts.append(Part(text, heading))
        self._words = []


def extract(path: Path) -> Extracted:
    """A page. Raises Unreadable when it has no words."""
    reader = _Reader()
    reader.feed(decoded(path.read_bytes(), path.name))
    reader.close()
    reader.close_part()
    if not reader.parts:
        raise Unreadable(f"{path.name} is a page without words")
    return Extracted("html", " ".join(reader.title.split()), reader.parts)
