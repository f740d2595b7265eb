"""docs/architecture.md names every module under gateway/, each once, and none that is not there."""

import re
from collections import Counter

from tests.docs.pages import ROOT, page, without_blocks

_ROW = re.compile(r"^\| `([\w/]+\.py)` \|", re.MULTILINE)


def modules() -> set[str]:
    """Every module's path below gateway/; a package's own file only where it is run."""
    below = ROOT / "gateway"
    found = (path.relative_to(below).as_posix() for path in below.rglob("*.py"))
    return {path for path in found if not path.endswith("__init__.py")}


def test_each_module_has_its_line() -> None:
    named = Counter(_ROW.findall(without_blocks(page("docs/architecture.md"))))
    there = modules()
    assert sorted(there - set(named)) == [], "docs/architecture.md needs a line for each"
    assert sorted(set(named) - there) == [], "docs/architecture.md names what is not there"
    assert max(named.values()) == 1
