"""Answered requests of a route, from the store, as they are learned from."""

from collections import Counter

import msgspec

from gateway.learn.features import READ, FeatureKind, Features
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


def logged(
    book: FeedbackBook, route: Route, now: float, kind: FeatureKind
) -> tuple[list[Logged], dict[str, int]]:
    """The requests, as `kind` reads them, and how many are left out and why. Raises StoreError or
    EncoderError."""
    metric = route.metric(route.right)
    if metric is None:
        return [], {}
    since = now - HALF_LIVES * route.half_life_s
    lessons = book.lessons(route.name, metric, since, now, MOST, READ)
    left_out = Counter({NOTHING_KEPT: lessons.nothing_kept, YOUNG: lessons.young})
    found = []
    texts = [each.text or "" for each in lessons.found if each.features is None]
    read = iter(kind.of_all(texts))
    for lesson in lessons.found:
        features = next(read) if lesson.features is None else kind.unpacked(lesson.features)
        each = OTHER_KIND if features is None else _logged(lesson, route.name, features)
        if isinstance(each, str):
            left_out[each] += lesson.stands
        else:
            found.append(each)
    return found, {why: n for why, n in left_out.items() if n}


def _logged(lesson: Lesson, route: str, read: Features) -> Logged | str:
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
