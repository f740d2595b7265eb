"""docs/security.md names tests for what it says: each of them is there."""

import ast
import re

from tests.docs.pages import ROOT, page

_NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_each_test_that_is_named_is_there() -> None:
    named = set(_NAMED.findall(page("docs/security.md")))
    assert len(named) > 20
    for path, function in named:
        tree = ast.parse((ROOT / path).read_text())
        tests = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert not function or function in tests, f"{path}::{function}"
