"""Puts what a measurement found where `docs/quality.md` tells of it.

Each part of that page that holds figures stands between two comments that name it, and is written
by the command that measured it: no figure there was typed by a person.
"""

from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "quality.md"


def told(page: str, part: str, markdown: str) -> str:
    """`page` with `markdown` as the part named `part`. Raises ValueError if it has no such part."""
    start, end = f"<!-- measured: {part} -->\n", f"<!-- end: {part} -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no part {part!r}: it stands between {start!r} and {end!r}")
    return f"{before}{start}\n{markdown.strip()}\n\n{end}{after}"


def write(part: str, markdown: str, page: Path = PAGE) -> None:
    """Write that part of the page anew."""
    page.write_text(told(page.read_text("utf-8"), part, markdown), "utf-8")
