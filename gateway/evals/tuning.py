"""From kept chats to a set that the next adapter can be trained on. Pure.

A chat is taken with the text that should have been said, where somebody said it; else with its
answer, where that was said to be right. Answers of backends whose terms do not let them be trained
on are left out; a correction is the corrector's own.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from gateway.store.feedback import Kept


class Set(msgspec.Struct, frozen=True):
    """Lines in OpenAI's chat format, and why other chats were left out, with how many."""

    lines: tuple[str, ...]
    corrected: int
    left_out: Mapping[str, int]


def of_chats(chats: Iterable[Kept], may_train: Callable[[str], bool]) -> Set:
    """The set of some chats; `may_train` says of a target whether its answers may be in it.

    The same chat with the same answer is in it once, where it stood first.
    """
    lines: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    corrected = 0
    for chat in chats:
        said = chat.correction if chat.correction else answer_of(chat)
        why = _left_out(chat, said, may_train)
        messages = _messages(chat.messages)
        if why is None and messages is None:
            why = "have messages that are no chat"
        if why is not None or said is None:
            left_out[why or "have no text for an answer"] += 1
            continue
        whole = {"messages": [*(messages or []), {"role": "assistant", "content": said}]}
        line = json.dumps(whole, ensure_ascii=False)
        if line in lines:
            left_out["stand there already"] += 1
            continue
        lines[line] = None
        corrected += bool(chat.correction)
    return Set(tuple(lines), corrected, dict(left_out))


def _left_out(chat: Kept, said: str | None, may_train: Callable[[str], bool]) -> str | None:
    if chat.correction:
        return None
    if not chat.right:
        return "were not said to be right"
    if not may_train(chat.target):
        return "are of backends whose answers may not train (`outputs_may_train`)"
    return "have no text for an answer" if not said else None


def _messages(text: str) -> list[Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list) and found else None


def answer_of(chat: Kept) -> str | None:
    """The text of an answer: a stream's is kept as text, a whole body as it came."""
    if chat.answer is None:
        return None
    try:
        body = json.loads(chat.answer)
        content = body["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None if chat.answer.startswith('{"') else chat.answer
    return content if isinstance(content, str) else None
