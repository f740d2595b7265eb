"""Answered requests of a route, from the store, as they are learned from."""

from collections import Counter

import msgspec

from gateway.learn.features import READ, features_of, unpacked
from gateway.learn.rows import Logged
from gateway.store.decisions import decoded
from gateway.store.feedback import FeedbackBook, Lesson
from gateway.types.routes import Route

MOST = 10_000
"""Requests that were spoken of that are learned from; and of those that were not."""
HALF_LIVES = 2
"""So many of a route's half-lives what was said is learned from."""

ELSEWHERE = "were answered by another than was chosen first"
NOTHING_KEPT = "were spoken of, and neither text nor features were kept"
OTHER_KIND = "have features of another kind"
YOUNG = "were not spoken of, and may still be"


def logged(book: FeedbackBook, route: Route, now: float) -> tuple[list[Logged], dict[str, int]]:
    """The requests, and how many are left out and why. Raises StoreError."""
    metric = route.metric(route.right)
    if metric is None:
        return [], {}
    since = now - HALF_LIVES * route.half_life_s
    lessons = book.lessons(route.name, metric, since, now, MOST, READ)
    left_out = Counter({NOTHING_KEPT: lessons.nothing_kept, YOUNG: lessons.young})
    found = []
    for lesson in lessons.found:
        each = _logged(lesson, route.name)
        if isinstance(each, str):
            left_out[each] += lesson.stands
        else:
            found.append(each)
    return found, {why: n for why, n in left_out.items() if n}


def _logged(lesson: Lesson, route: str) -> Logged | str:
    if lesson.features is not None:
        read = unpacked(lesson.features)
        if read is None:
            return OTHER_KIND
    else:
        read = features_of(lesson.text or "")
    try:
        ranked = decoded(lesson.decision, route, "", "").ranked
    except (msgspec.DecodeError, msgspec.ValidationError):
        return "have a decision that cannot be read"
    if not ranked or ranked[0].target != lesson.target:
        return ELSEWHERE
    chances: dict[str, float] = {}
    for choice in ranked:
        chances[choice.target] = chances.get(choice.target, 0.0) + choice.propensity
    return Logged(
        lesson.id,
        read,
        lesson.target,
        None if lesson.right is None else float(lesson.right),
        lesson.cost,
        chances,
        lesson.at,
        lesson.stands,
    )
