"""The page of a run: nothing in it but text, whatever models said; and it looks as it should."""

import re
from html.parser import HTMLParser

from gateway.evals.compare import report
from gateway.evals.page import page
from tests.evals.test_compare import a_run, result

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """Every tag and attribute of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_models_said_is_text() -> None:
    results = [
        *(result(case, "a", True, output=HOSTILE, input=HOSTILE) for case in range(5)),
        *(result(case, "b", case > 2, expected=HOSTILE) for case in range(5)),
    ]
    written = page(report(a_run(), results))
    seen = Tags()
    seen.feed(written)
    assert "script" not in seen.tags
    assert "img" not in seen.tags
    assert not [name for name in seen.attributes if name.startswith("on")]
    assert HOSTILE in seen.text
    # Nothing is fetched from anywhere.
    assert not re.search(r"(src|href|url\(|@import)", re.sub(r"&lt;.*?&gt;", "", written))


def test_a_page_of_one_target_and_of_none_can_be_written() -> None:
    assert "There is only one target" in page(report(a_run(), [result(1, "a", True)]))
    assert "<h1>s</h1>" in page(report(a_run(), []))
