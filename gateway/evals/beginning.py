"""From kept chats to a suite: cases whose answer is known, since somebody said so. Pure.

A case is a chat of one question, under the system prompt that most of them have; what is expected
is the correction, or the answer that was said to be right. Where a model is to judge, nothing need
be expected. Of more than are wanted a seeded sample is taken, in equal parts of each target's chats
where there are enough: what is kept most of is not all that is asked.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.evals.tuning import answer_of
from gateway.store.feedback import Kept

LEAST, PLAIN, MOST = 16, 512, 4096
"""Tokens of an answer: at least, where nothing is known, and at most."""


class Case(msgspec.Struct, frozen=True):
    """A question with the answer that is wanted; `target` gave it, or was corrected."""

    input: str
    expected: str
    target: str
    request: str


class Beginning(msgspec.Struct, frozen=True):
    """The cases of a suite, their system prompt, and why other chats are none, with how many."""

    system: str | None
    cases: tuple[Case, ...]
    left_out: Mapping[str, int]


def beginning(chats: Iterable[Kept], count: int, seed: int, *, judged: bool = False) -> Beginning:
    """At most `count` cases, in the order in which they were asked; each question once. Those that
    are to be `judged` need no expected answer."""
    asked = [(chat, _question(chat)) for chat in chats]
    systems = Counter(found[0] for _, found in asked if found is not None)
    system = systems.most_common(1)[0][0] if systems else None
    left_out: Counter[str] = Counter()
    known: dict[str, Case] = {}
    for chat, found in asked:
        expected = chat.correction or (answer_of(chat) if chat.right else None)
        if found is None:
            left_out["have more than one question, or parts that are no text"] += 1
        elif found[0] != system:
            left_out["have another system prompt than most"] += 1
        elif not expected and not judged:
            left_out["have no answer that is known to be right"] += 1
        elif found[1] in known and (known[found[1]].expected or not expected):
            left_out["ask what another asks"] += 1
        else:
            known[found[1]] = Case(found[1], expected or "", chat.target, chat.id)
    return Beginning(system, tuple(_sample(list(known.values()), count, seed)), dict(left_out))


def room(cases: Sequence[Case], context: int | None) -> int:
    """The tokens that an answer may take: twice what the longest expected one has by a token of
    four bytes, and what `context` leaves beside the longest question by one of three, half of it at
    most."""
    longest = max((len(case.expected.encode()) for case in cases), default=0)
    wanted = PLAIN
    if all(case.expected for case in cases):
        wanted = min(MOST, max(LEAST, 1 << max(0, (longest // 2 - 1).bit_length())))
    if context is None:
        return wanted
    asked = max((len(case.input.encode()) for case in cases), default=0) // 3
    return max(1, min(wanted, context // 2, context - asked))


def _question(chat: Kept) -> tuple[str | None, str] | None:
    """The system prompt, if there is one, and the one question; None for other chats."""
    try:
        messages: Any = json.loads(chat.messages)
        texts = [(each["role"], each["content"]) for each in messages]
    except (ValueError, KeyError, TypeError):
        return None
    if not all(isinstance(text, str) for _, text in texts):
        return None
    match texts:
        case [("user", question)]:
            return None, question
        case [("system" | "developer", system), ("user", question)]:
            return system, question
    return None


def _sample(cases: Sequence[Case], count: int, seed: int) -> Sequence[Case]:
    if len(cases) <= count:
        return cases
    rng = random.Random(seed)
    queues: dict[str, list[int]] = {}
    for place in rng.sample(range(len(cases)), len(cases)):
        queues.setdefault(cases[place].target, []).append(place)
    chosen: list[int] = []
    while len(chosen) < count:
        for queue in queues.values():
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return [cases[place] for place in sorted(chosen)]
