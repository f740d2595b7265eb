"""What makes a route certain: its name or an alias, a header, a keyword, a pattern. Pure.

In this order, and the first kind that matches decides:

1. `model` names a route, or is an alias of one.
2. Headers: every header of the route's `match.headers` has that value. Names are compared without
   regard to case. Of several routes the one that asks for most headers wins.
3. Keywords: one stands in the text as a whole word (or words, with any white space or hyphen
   between them), without regard to case. The route with most different keywords in the text wins,
   then the one with the longest.
4. Patterns: a regular expression is found in the text; case matters unless it says `(?i)`.

Routes that are still equal are taken in the order of the configuration. Of a text longer than
`READ_CHARS` the beginning and the end are read, half of it each.

A word is a run of letters, digits and underscores. Languages that do not part their words (Chinese,
Japanese, Thai) have none in this sense, so a keyword in their scripts is found anywhere.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gateway.types.requests import Recognition
from gateway.types.routes import Route
from gateway.types.snapshot import Snapshot

READ_CHARS = 32_768

_WORDS = re.compile(r"\w+")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_GAP = r"[\s\-]+"


class Rules:
    """The certain rules of one snapshot, compiled once."""

    __slots__ = ("_aliases", "_headers", "_keywords", "_patterns", "_routes")

    def __init__(self, snapshot: Snapshot) -> None:
        routes = tuple(snapshot.routes.values())
        self._routes = frozenset(snapshot.routes)
        self._aliases = snapshot.aliases
        self._headers = _Headers(routes)
        self._keywords = _Keywords(routes)
        self._patterns = tuple(
            (re.compile(pattern), route.name)
            for route in routes
            for pattern in route.match.patterns
        )

    def recognise(self, model: str, headers: Mapping[str, str], text: str) -> Recognition | None:
        """The certain route, or None when the classifier must say. `headers` have lower-case names.

        Raises nothing: a model that is neither a route nor an alias of one is taken as `auto`.
        """
        if model in self._routes:
            return Recognition(model, "named")
        alias = self._aliases.get(model)
        if alias is not None and alias in self._routes:
            return Recognition(alias, "alias", detail=model)
        found = self._headers.find(headers)
        if found is not None:
            return found
        read = read_of(text)
        found = self._keywords.find(read)
        if found is not None:
            return found
        for pattern, route in self._patterns:
            if pattern.search(read):
                return Recognition(route, "pattern", detail=pattern.pattern)
        return None


def ruled_by(snapshot: Snapshot) -> object:
    """What the rules come from: where this is equal, the rules are the same."""
    return snapshot.aliases, [(route.name, route.match) for route in snapshot.routes.values()]


class _Headers:
    """Header rules, the most demanding first, by the first header that each asks for."""

    __slots__ = ("_by_first",)

    def __init__(self, routes: Iterable[Route]) -> None:
        rules = [
            (route.name, {name.lower(): value for name, value in route.match.headers.items()})
            for route in routes
            if route.match.headers
        ]
        rules.sort(key=lambda rule: -len(rule[1]))
        self._by_first: dict[str, dict[str, list[tuple[int, str, dict[str, str]]]]] = {}
        for order, (route_name, wanted) in enumerate(rules):
            name, value = next(iter(wanted.items()))
            values = self._by_first.setdefault(name, {})
            values.setdefault(value, []).append((order, route_name, wanted))

    def find(self, headers: Mapping[str, str]) -> Recognition | None:
        matches = [
            rule
            for name, values in self._by_first.items()
            if name in headers
            for rule in values.get(headers[name], ())
            if all(headers.get(other) == value for other, value in rule[2].items())
        ]
        if not matches:
            return None
        _, route, wanted = min(matches)
        said = ", ".join(f"{name}: {value}" for name, value in wanted.items())
        return Recognition(route, "header", detail=said)


class _Keyword(NamedTuple):
    """One keyword of one route: `text` is `said` in folded letters; `exact` finds it, where a
    single plain word needs no second look once it is known to be among the text's words."""

    text: str
    said: str
    route: str
    order: int
    exact: re.Pattern[str] | None


class _Keywords:
    """Keywords by the first word of each, so that a text costs one look-up for each of its words.

    `_anywhere` are those that have no word to look up: signs only, or scripts without spaces.
    """

    __slots__ = ("_anywhere", "_by_word", "_sought")

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_word: dict[str, list[_Keyword]] = {}
        self._anywhere: list[_Keyword] = []
        for order, route in enumerate(routes):
            different = {_fold(said.strip()): said for said in reversed(route.match.keywords)}
            for text, said in reversed(different.items()):
                word = None if _UNSPACED.search(text) else _WORDS.search(text)
                exact = None if word is None or word[0] == text else _whole(text)
                keyword = _Keyword(text, said, route.name, order, exact)
                if word is not None:
                    self._by_word.setdefault(word[0], []).append(keyword)
                elif text:
                    self._anywhere.append(keyword)
        self._sought = frozenset(self._by_word)

    def find(self, text: str) -> Recognition | None:
        if not self._sought and not self._anywhere:
            return None
        folded = _fold(text)
        words = self._sought.intersection(_WORDS.findall(folded))
        if not words and not self._anywhere:
            return None
        found = [
            keyword
            for word in words
            for keyword in self._by_word[word]
            if keyword.exact is None or keyword.exact.search(folded)
        ]
        found += [keyword for keyword in self._anywhere if keyword.text in folded]
        return _most(found) if found else None


def _most(found: list[_Keyword]) -> Recognition:
    """The route with most keywords, then the longest one, then the first declared."""
    by_route: dict[str, list[_Keyword]] = {}
    for keyword in found:
        by_route.setdefault(keyword.route, []).append(keyword)
    best = min(
        by_route.values(),
        key=lambda of: (-len(of), -max(len(keyword.text) for keyword in of), of[0].order),
    )
    said = ", ".join(sorted(keyword.said for keyword in best))
    return Recognition(best[0].route, "keyword", detail=said)


def _whole(text: str) -> re.Pattern[str]:
    """Finds `text` where no further letter or digit touches its ends."""
    parts = [part for part in re.split(_GAP, text) if part]
    before = r"(?<!\w)" if _WORDS.match(parts[0]) else ""
    after = r"(?!\w)" if _WORDS.match(parts[-1][-1]) else ""
    return re.compile(before + _GAP.join(map(re.escape, parts)) + after)


def _fold(text: str) -> str:
    """Letters without regard to case, each character composed in one way only."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def read_of(text: str) -> str:
    """The part of a long text that is read: its beginning and its end, whole words only.

    Of what it gives it gives all: who keeps no more than that loses nothing.
    """
    if len(text) <= READ_CHARS:
        return text
    # With the line break between them no longer than what is read whole.
    head, tail = text[: READ_CHARS // 2 - 1], text[-READ_CHARS // 2 :]
    return f"{head.rpartition(' ')[0] or head}\n{tail.partition(' ')[2] or tail}"
