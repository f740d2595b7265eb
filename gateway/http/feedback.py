"""`POST /v1/feedback`: what is said of an answer, at once or days later.

    {"request": "req_…", "metric": "accepted", "value": true}

The answer is named by one of `request`, `decision`, `completion`, `ref` (the application's own,
sent as `x-switchboard-ref`) and `episode` (`x-switchboard-episode`: an outcome of all its calls).
Saying it again replaces it. A key speaks of its own requests and its tenant's only.
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
)
from pydantic_core import PydanticCustomError

from gateway.errors import BadRequest, NotFound
from gateway.http.body import Body
from gateway.http.openai import bearer
from gateway.store.feedback import Answered, Said
from gateway.types.requests import Caller
from gateway.types.routes import Metric, Route
from gateway.types.snapshot import Snapshot

LONGEST = 20_000
"""Characters of a comment or a correction."""

Id = Annotated[str | None, Field(default=None, min_length=1, max_length=200)]
Words = Annotated[str | None, Field(default=None, max_length=LONGEST)]
WAYS = ("request", "decision", "completion", "ref", "episode")


def _plain(value: object) -> object:
    if not isinstance(value, bool | int | float):
        raise PydanticCustomError("value", "write true, false, or a number for a score")
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("value", "write a number that is finite")
    return value


class Feedback(Body):
    """What is said, and of which answer: one of the first five names it."""

    told = frozenset({"comment", "correction"})

    request: Id
    decision: Id
    completion: Id
    ref: Id
    episode: Id
    metric: str = Field(min_length=1, max_length=200)
    value: Annotated[StrictBool | StrictInt | StrictFloat, BeforeValidator(_plain)] = Field(
        description="`true`, `false`, or a number for a score."
    )
    comment: Words
    correction: Words


Find = Callable[[str, str, Caller], Awaitable[list[Answered]]]
"""The caller's requests that a way of naming and a name mean."""

Say = Callable[[list[Said]], Awaitable[None]]
"""Keeps what was said. Like `Find` it raises Overloaded while the store is away."""


def feedback_api(
    find: Find,
    keep: Say,
    authenticate: Callable[[bytes | None], Caller],
    snapshot: Callable[[], Snapshot],
    told: Callable[[str, str], None],
) -> APIRouter:
    """The one call; `told` is told the route and metric of each thing that was said."""
    router = APIRouter()

    @router.post("/v1/feedback")
    async def say(request: Request, body: Feedback) -> dict[str, Any]:
        caller = authenticate(bearer(request.scope["headers"]))
        by, name = _named(body)
        found = await find(by, name, caller)
        if not found:
            raise NotFound(
                f"There is no request with the {by} '{name}' that this key may speak of. A request"
                " is known when its answer has ended.",
                param=by,
                code="request_not_found",
            )
        now, routes = time.time(), snapshot().routes
        results = [_result(body, each, routes, caller, now) for each in found]
        await keep([said for said, _ in results])
        for each in found:
            told(each.route or "", body.metric)
        return {"object": "feedback", "data": [result for _, result in results]}

    return router


def _named(body: Feedback) -> tuple[str, str]:
    given = [(way, name) for way in WAYS if (name := getattr(body, way)) is not None]
    if len(given) != 1:
        raise BadRequest(
            f"Name the answer by one of {', '.join(WAYS)}; {len(given)} are given.",
            code="one_answer_needed",
        )
    return given[0]


def _result(
    body: Feedback, answered: Answered, routes: Mapping[str, Route], caller: Caller, now: float
) -> tuple[Said, dict[str, Any]]:
    """What is kept of it for one request, and what the caller is told of that."""
    route = routes.get(answered.route or "")
    if route is None:
        raise BadRequest(
            f"The request '{answered.id}' is of the route '{answered.route or ''}', which is not"
            " declared: it has no metrics.",
            code="route_not_found",
        )
    metric = _metric(route, body.metric)
    value = _value(metric, body.value)
    late = metric.within_s is not None and now - answered.ended > metric.within_s
    keeps = route.keep == "text"
    said = Said(
        answered.id,
        metric.name,
        value,
        body.comment if keeps else None,
        body.correction if keeps else None,
        caller.key,
        now,
    )
    return said, {
        "request": answered.id,
        "route": route.name,
        "target": answered.target,
        "metric": metric.name,
        "value": value,
        "right": metric.is_right(value),
        "counts": not late,
        "kept_text": keeps if body.comment or body.correction else None,
    }


def _metric(route: Route, name: str) -> Metric:
    metric = route.metric(name)
    if metric is not None:
        return metric
    known = ", ".join(f"'{each.name}'" for each in route.metrics)
    raise BadRequest(
        f"The route '{route.name}' has no metric '{name}'; it has {known or 'none'}.",
        param="metric",
        code="metric_not_found",
    )


def _value(metric: Metric, value: bool | float) -> float:
    if metric.type == "boolean" and not isinstance(value, bool):
        raise BadRequest(
            f"'{metric.name}' is true or false, not {value}.", param="value", code="invalid_value"
        )
    if metric.type == "score" and (isinstance(value, bool) or abs(value) > 1e15):
        raise BadRequest(
            f"'{metric.name}' is a score: write a number.", param="value", code="invalid_value"
        )
    return float(value)
