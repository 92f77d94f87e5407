"""CSV: rows with the names of their columns, so that each is understood alone."""

import csv
import io
from pathlib import Path

from userland.documents.extract import Extracted, Part, Unreadable
from userland.documents.plain import decoded

ROWS = 100_000


def extract(path: Path) -> Extracted:
    """A table with a heading in its first row. Raises Unreadable."""
    text = decoded(path.read_bytes(), path.name)
    try:
        dialect: type[csv.Dialect] = csv.Sniffer().sniff(text[:8192], ",;\t|")
    except csv.Error:
        dialect = csv.excel_tab if path.suffix.lower() == ".tsv" else csv.excel
    try:
        rows = [row for row in csv.reader(io.StringIO(text), dialect) if any(map(str.strip, row))]
    except csv.Error as error:
        raise Unreadable(f"{path.name} is not a table: {error}") from error
    if len(rows) > ROWS:
        raise Unreadable(f"{path.name} has {len(rows)} rows, {ROWS} is the most")
    names, body = [name.strip() for name in rows[0]], rows[1:]
    if not body:
        return Extracted("table", "", [Part(", ".join(names))], {"rows": 0, "columns": names})
    lines = [_line(names, row) for row in body]
    part = Part("\n".join(lines), ", ".join(names)[:200], whole=True)
    return Extracted("table", "", [part], {"rows": len(body), "columns": names[:100]})


def _line(names: list[str], row: list[str]) -> str:
    cells = []
    for place, cell in enumerate(row):
        name = names[place] if place < len(names) else ""
        value = " ".join(cell.split())
        if value:
            cells.append(f"{name}: {value}" if name else value)
    return "; ".join(cells)
