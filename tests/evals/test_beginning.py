"""A suite from kept chats: what is a case, and which are taken."""

import json
from typing import Any

from gateway.evals.beginning import Case, beginning, room
from gateway.store.feedback import Kept


def chat(n: int, question: str, target: str = "a", **more: Any) -> Kept:
    messages = more.pop("messages", [{"role": "user", "content": question}])
    values: dict[str, Any] = {
        "id": f"req_{n}", "target": target, "messages": json.dumps(messages), "started": float(n),
        "answer": f"answer {n}", "right": True, "correction": None,
    }  # fmt: skip
    return Kept(**(values | more))


def test_cases_are_questions_whose_answer_is_known() -> None:
    picture = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    turns = [{"role": r, "content": "x"} for r in ("user", "assistant", "user")]
    found = beginning(
        [
            chat(1, "one"),
            chat(2, "two", right=False, correction="two, rightly"),
            chat(3, "three", right=False),
            chat(4, "one"),
            chat(5, "", messages=picture),
            chat(6, "", messages=turns),
            chat(7, "", messages=[{"role": "system", "content": "s"}, *turns[:1]]),
        ],
        10,
        0,
    )
    assert [(case.input, case.expected) for case in found.cases] == [
        ("one", "answer 1"),
        ("two", "two, rightly"),
    ]
    assert found.system is None
    assert sum(found.left_out.values()) == 5


def test_of_many_each_target_has_its_part_and_the_choice_is_the_same_again() -> None:
    chats = [chat(n, f"q{n}", "often" if n % 10 else "seldom") for n in range(200)]
    found = beginning(chats, 30, 7)
    assert found == beginning(chats, 30, 7)
    assert found != beginning(chats, 30, 8)
    targets = [case.target for case in found.cases]
    assert (targets.count("often"), targets.count("seldom")) == (15, 15)


def test_where_a_model_is_to_judge_nothing_need_be_expected() -> None:
    chats = [chat(1, "one", right=None), chat(2, "two"), chat(3, "one", correction="yes")]
    found = beginning(chats, 10, 0, judged=True)
    assert {case.input: case.expected for case in found.cases} == {"one": "yes", "two": "answer 2"}


def test_an_answer_has_room_and_fits_what_the_candidates_take() -> None:
    def case(question: int, answer: int) -> Case:
        return Case("q" * question, "a" * answer, "t", "r")

    assert room([case(10, 8), case(10, 20)], None) == 16
    assert room([case(10, 300)], None) == 256
    assert room([case(10, 300)], 256) == 128
    assert room([case(600, 300)], 256) == 56
    assert room([case(10, 0)], None) == 512
    assert room([case(10, 90_000)], None) == 4096
