"""docs/failures.md says what the code does about each kind of failure."""

import re

from gateway.resilience.base import RULES
from tests.docs.pages import page

_ROW = re.compile(
    r"^\| `(\w+)` \|[^|]*\| ([\w ]+) \| (yes|no) \| (yes|no) \|$",
    re.MULTILINE,
)


def test_the_table_is_what_is_done() -> None:
    told = {
        kind: (another, again == "yes", counts == "yes")
        for kind, another, again, counts in _ROW.findall(page("docs/failures.md"))
    }
    assert told == {kind: (rule.another, rule.again, rule.counts) for kind, rule in RULES.items()}
