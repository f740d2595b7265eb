"""A local page on which one rater labels a run's answers, two by two, without their names.

Whoever can read the page's address may label: a random token stands in it, and without it all is
404. It is served to this machine alone, under this machine's names alone (a page elsewhere whose
name was turned to 127.0.0.1 gets nothing), and takes labels from its own origin alone. Which target
said what never leaves the server.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from hmac import compare_digest
from importlib.resources import files
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.evals.labels import Label, Pair, Preferred, turned

MOST_BYTES = 4096
"""Of a label that is sent."""


class Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A label as the page says it, which knows a left and a right alone."""

    preferred: str | None
    left: bool | None
    right: bool | None


class Labelling:
    """One rater's labelling of a run's pairs. `keep` writes a label for good, or raises OSError."""

    def __init__(
        self,
        suite: str,
        pairs: Sequence[Pair],
        rater: str,
        seed: int,
        known: Sequence[Label],
        keep: Callable[[Label], None],
        clock: Callable[[], float],
        finished: Callable[[], None] = lambda: None,
    ) -> None:
        """`known` are labels of before, this rater's and others'."""
        self.token = secrets.token_urlsafe(24)
        self._suite = suite
        self._pairs = pairs
        self._rater = rater
        self._turned = [turned(pair, rater, seed) for pair in pairs]
        self._labels = {each.key: each for each in known if each.rater == rater}
        self._texts = {
            (pair.case, each.target, each.rep): each.output
            for pair in pairs
            for each in (pair.one, pair.other)
        }
        self._keep = keep
        self._clock = clock
        self._finished = finished

    @property
    def done(self) -> int:
        """Pairs of which all has been said."""
        return sum(self._is_done(pair) for pair in self._pairs)

    def app(self, port: int) -> Starlette:
        """The server for a port of this machine."""
        own = f"/{self.token}"
        return Starlette(
            routes=[
                Route(f"{own}/", self._page),
                Route(f"{own}/state", self._state),
                Route(f"{own}/pairs/{{n:int}}", self._show),
                Route(f"{own}/pairs/{{n:int}}", self._take, methods=["POST"]),
                Route(f"{own}/finish", self._finish, methods=["POST"]),
            ],
            middleware=[Middleware(_Guarded, port=port, token=self.token)],
        )

    # ------------------------------------------------------------ the page asks

    async def _page(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        html = files("gateway.evals").joinpath("labelling.html").read_text("utf-8")
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}';"
            " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(
            html.replace("{{nonce}}", nonce), headers={"content-security-policy": policy}
        )

    async def _state(self, request: Request) -> Response:
        """How far this rater is, and the pair to go on with: the first of which nothing is said,
        or else not all."""
        places = range(len(self._pairs))
        untouched = (n for n in places if self._label(self._pairs[n]) is None)
        undone = (n for n in places if not self._is_done(self._pairs[n]))
        begin = next(untouched, next(undone, 0))
        return JSONResponse({**self._progress(), "suite": self._suite, "next": begin})

    async def _show(self, request: Request) -> Response:
        n = int(request.path_params["n"])
        if n >= len(self._pairs):
            return _refused(404, "there is no such pair")
        pair, turn = self._pairs[n], self._turned[n]
        left, right = (pair.other, pair.one) if turn else (pair.one, pair.other)
        label, marks = self._label(pair), self._marks(pair.case)
        side = {None: None, "tie": "tie", "one": ("left", "right")[turn]}
        side["other"] = ("right", "left")[turn]
        preferred = label.preferred if label is not None else None
        return JSONResponse(
            {
                **self._progress(),
                "n": n,
                "input": pair.one.input,
                "expected": pair.one.expected,
                "texts": [left.output, right.output],
                "same": pair.same,
                "preferred": side[preferred],
                "left": marks.get(left.output),
                "right": marks.get(right.output),
            }
        )

    async def _take(self, request: Request) -> Response:
        n = int(request.path_params["n"])
        if n >= len(self._pairs):
            return _refused(404, "there is no such pair")
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BYTES:
                return _refused(413, "a label is smaller than that")
        try:
            sent = msgspec.json.decode(body, type=Sent)
            if sent.preferred not in ("left", "right", "tie", None):
                raise msgspec.ValidationError("`preferred` is left, right, tie or null")
        except msgspec.DecodeError as error:
            return _refused(400, str(error))
        label = self._meant(n, sent)
        try:
            self._keep(label)
        except OSError as error:
            return _refused(507, f"the label could not be kept: {error}")
        self._labels[label.key] = label
        return JSONResponse(self._progress())

    async def _finish(self, request: Request) -> Response:
        self._finished()
        return JSONResponse(self._progress())

    # ------------------------------------------------------------ what was said

    def _meant(self, n: int, sent: Sent) -> Label:
        """The label with the targets' names, of which the page knows nothing."""
        pair, turn = self._pairs[n], self._turned[n]
        one, other = pair.one.target, pair.other.target
        left, right = (other, one) if turn else (one, other)
        words: dict[str | None, Preferred | None] = {None: None, "tie": "tie"}
        words["left"], words["right"] = ("other", "one") if turn else ("one", "other")
        said = ((left, sent.left), (right, sent.right))
        marks = {target: mark for target, mark in said if mark is not None}
        preferred = words[sent.preferred]
        if pair.same and marks:
            preferred = "tie"
            mark = next(iter(marks.values()))
            marks = {one: mark, other: mark}
        return Label(
            self._rater, pair.case, one, other, preferred, marks, self._clock(), pair.one.rep
        )

    def _label(self, pair: Pair) -> Label | None:
        return self._labels.get(pair.key)

    def _is_done(self, pair: Pair) -> bool:
        label = self._label(pair)
        return label is not None and label.whole

    def _marks(self, case: str) -> Mapping[str, bool]:
        """What this rater said of a case's answers by their texts, in whatever pairs: nobody is
        asked twice."""
        said: dict[str, bool] = {}
        for each in sorted(self._labels.values(), key=lambda label: label.at):
            for target, right in each.right.items():
                text = self._texts.get((case, target, each.rep)) if each.case == case else None
                if text is not None:
                    said[text] = right
        return said

    def _progress(self) -> dict[str, Any]:
        return {"rater": self._rater, "count": len(self._pairs), "done": self.done}


def _refused(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status)


class _Guarded:
    """Only this machine's own names, only with the token, and labels only from the page itself."""

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self._app = app
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refused = self._refused(Request(scope))

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await (self._app if refused is None else refused)(scope, receive, told)

    def _refused(self, request: Request) -> Response | None:
        if request.headers.get("host") not in self._hosts:
            return _refused(421, "this is served under this machine's own name alone")
        if not compare_digest(request.url.path.lstrip("/").split("/")[0].encode(), self._token):
            return _refused(404, "not found: the address is the one that the command printed")
        if request.method in ("GET", "HEAD"):
            return None
        if request.headers.get("origin") != f"http://{request.headers['host']}":
            return _refused(403, "labels are taken from the page itself alone")
        if request.headers.get("content-type") != "application/json":
            return _refused(415, "a label is JSON")
        return None


_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
