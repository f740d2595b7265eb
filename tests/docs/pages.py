"""The pages, and what stands in them: fenced blocks, code within lines, links."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))

_FENCE = re.compile(r"^```(.*)$")
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """One fenced block: where it begins, the word behind its fence, and what is in it."""

    place: str
    kind: str
    text: str


class Said(NamedTuple):
    """A command as a page shows it, and the output that stands below it; None if none does."""

    place: str
    command: str
    output: str | None


def blocks(text: str, name: str) -> list[Block]:
    """Every fenced block of a page. Raises ValueError for a fence that is never closed."""
    found: list[Block] = []
    kind: str | None = None
    start = 0
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is not None and kind is None:
            kind, start, inside = fence[1].strip(), number, []
        elif fence is not None and kind is not None:
            found.append(Block(f"{name}:{start}", kind, "\n".join(inside) + "\n"))
            kind = None
        elif kind is not None:
            inside.append(line)
    if kind is not None:
        raise ValueError(f"{name}:{start}: the fence is not closed")
    return found


def page(name: str) -> str:
    """A page's text."""
    return (ROOT / name).read_text("utf-8")


def without_blocks(text: str) -> str:
    """The prose of a page."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def codes(text: str) -> list[str]:
    """What stands between backticks within lines, a table's escaped bars as they are meant."""
    return [code.replace("\\|", "|") for code in _CODE.findall(without_blocks(text))]


def links(text: str) -> list[str]:
    """Where the links lead."""
    return _LINK.findall(without_blocks(text))


def anchors(text: str) -> set[str]:
    """What a link into a page may name: its headings, as GitHub spells them."""
    headings = _HEADING.findall(without_blocks(text))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def commands(block: Block) -> Iterator[Said]:
    """The commands of a `sh` block, or of a `console` block with their outputs.

    A backslash at a line's end continues it. Raises ValueError where a `console` block does not
    begin with a command.
    """
    if block.kind == "sh":
        joined = block.text.replace("\\\n", " ").splitlines()
        yield from (Said(block.place, line, None) for line in joined if _says(line))
        return
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    if parts[0].strip():
        raise ValueError(f"{block.place}: this output is of no command: {parts[0]!r}")
    for part in parts[1:]:
        command, _, output = part.replace("\\\n", " ").partition("\n")
        yield Said(block.place, command, output)


def _says(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


# ---------------------------------------------------------------- shapes

_VARYING = (
    (re.compile(r"\b(req|dec|key)_\w+"), r"\1_#"),
    (re.compile(r"\b(?=[a-f]*[0-9])[0-9a-f]{8,}\b"), "#"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "#"),
    (re.compile(r"\s+"), " "),
)


def shape(line: str) -> str:
    """A line without what differs from run to run: figures, ids, hashes, the width of columns."""
    for pattern, put in _VARYING:
        line = pattern.sub(put, line)
    return line.strip()


def unlike(shown: str, real: str) -> str | None:
    """How what a page shows differs in shape from the real output, None if it does not.

    A line that is `…` stands for any lines.
    """
    wanted, got = _shapes(shown), _shapes(real)
    place = 0
    for number, chunk in enumerate(_chunks(wanted)):
        at = _find(chunk, got, place)
        if at is None or (number == 0 and at != 0):
            return f"the page shows\n{shown}\nbut it is\n{real}"
        place = at + len(chunk)
    ended = wanted[-1:] == ["…"] or place == len(got)
    return None if ended else f"the page stops before\n{real}"


def _shapes(text: str) -> list[str]:
    return [shape(line) for line in text.rstrip("\n").splitlines()]


def _chunks(lines: Sequence[str]) -> list[list[str]]:
    """The runs of lines between the `…`; the first one may be empty."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line == "…":
            found.append([])
        else:
            found[-1].append(line)
    return found


def _find(chunk: Sequence[str], lines: Sequence[str], start: int) -> int | None:
    for at in range(start, len(lines) - len(chunk) + 1):
        if list(lines[at : at + len(chunk)]) == list(chunk):
            return at
    return None
