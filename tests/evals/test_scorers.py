"""What answers are worth, by every kind of scorer that needs no model."""

import asyncio
from pathlib import Path

import pytest

from gateway.config.files.suites import ScorerPart
from gateway.evals import code, judge, scorers
from gateway.evals.scoring import ScorerError, of_text, own_function


@pytest.mark.parametrize(
    ("said", "expected", "score"),
    [
        ("The sum is 1,204.50 euros.", "1204.5", 1.0),
        ("about 1204", "1204.5", 1.0),
        ("1203", "1204.5", 0.0),
        ("between 3 and 4", "4", 1.0),
        ("none", "4", 0.0),
        ("-2e3", "-2000", 1.0),
    ],
)
def test_numbers_are_compared_within_a_tolerance(said: str, expected: str, score: float) -> None:
    assert scorers.number(0.5, 0.0)(said, expected) == score


def test_a_tolerance_may_be_relative() -> None:
    assert scorers.number(0.0, 0.01)("101", "100") == 1.0
    assert scorers.number(0.0, 0.01)("101.1", "100") == 0.0


def test_json_fits_a_schema_in_a_fence_or_not(tmp_path: Path) -> None:
    schema = '{"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}'
    (tmp_path / "place.json").write_text(schema)
    score = of_text(ScorerPart(kind="schema", schema="place.json"), tmp_path)
    assert score is not None
    assert score('```json\n{"city": "Riga"}\n```', "") == 1.0
    assert [score(said, "") for said in ('{"city": 7}', "{}", "Riga", "[" * 5000)] == [0.0] * 4
    with pytest.raises(ScorerError, match=r"no\.json is no JSON Schema"):
        of_text(ScorerPart(kind="schema", schema="no.json"), tmp_path)


def test_f1_of_fields() -> None:
    expected = '{"party": "Norvik", "days": [30, 60], "notes": {"signed": true}}'
    assert scorers.field_f1(expected, expected) == 1.0
    assert scorers.field_f1('{"days": [60, 30], "party": "norvik"}', expected) == pytest.approx(
        2 * 3 / (3 + 4)
    )
    assert scorers.field_f1('{"party": "Halden"}', expected) == 0.0
    assert scorers.field_f1("no JSON", expected) == 0.0
    assert scorers.field_f1("{}", "{}") == 1.0


def test_bleu_and_rouge() -> None:
    right = "the cat sat on the mat near the door"
    assert scorers.bleu(right, right) == pytest.approx(1.0)
    assert scorers.rouge(right, right) == pytest.approx(1.0, abs=1e-6)
    near, far = "the cat sat on a mat near the door", "a dog barked"
    assert 0.4 < scorers.bleu(near, right) < 1.0
    # The longest common subsequence has 8 of 9 words on either side.
    assert scorers.rouge(near, right) == pytest.approx(8 / 9, abs=1e-6)
    assert scorers.bleu(far, right) < 0.1
    assert scorers.rouge("", right) == scorers.rouge(" . ", right) == 0.0


def test_a_function_of_ones_own_is_of_the_suites_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def short(said, expected, fields):\n    return len(said) <= int(fields['most'])\n"
    )
    (tmp_path.parent / "outside.py").write_text("def f(*_): return 1\n")
    assert own_function("own:short", tmp_path)("yes", "", {"most": "3"})
    for name in ("own:long", "../outside:f", "os:getcwd", "own", "outside:f"):
        with pytest.raises(ScorerError, match=r"own|outside|getcwd"):
            own_function(name, tmp_path)


# ---------------------------------------------------------------- code


async def test_code_is_run_with_limits(tmp_path: Path) -> None:
    async def run(source: str, timeout_s: float = 20.0) -> tuple[bool, str]:
        return await code.works(source, timeout_s, 256 << 20)

    assert await run("assert 1 + 1 == 2") == (True, "")
    worked, said = await run("raise ValueError('no')")
    assert not worked
    assert "ValueError: no" in said
    assert await run("while True: pass", 0.5) == (False, "not done after 0.5 s")
    assert not (await run("x = bytearray(1 << 30)"))[0]
    worked, said = await run("import socket\nsocket.create_connection(('127.0.0.1', 9), 1)", 20.0)
    assert not worked
    assert "unreachable" in said
    worked, said = await run("import os\nprint(os.environ['SECRET'])")
    assert "KeyError" in said
    assert not (await run("open('big', 'wb').write(b'x' * (1 << 25))"))[0]


async def test_what_code_starts_is_ended_with_it(tmp_path: Path) -> None:
    mark = tmp_path / "still-there"
    mark.touch(mode=0o666)
    source = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    while True: open({str(mark)!r}, 'a').write('x'); time.sleep(0.05)\n"
        "time.sleep(30)\n"
    )
    assert (await code.works(source, 1.0, 256 << 20))[1] == "not done after 1 s"
    size = mark.stat().st_size
    assert size > 0
    await asyncio.sleep(0.3)
    assert mark.stat().st_size == size


def test_a_program_has_the_answers_code_and_the_cases_fields() -> None:
    said = "Here it is:\n```python\ndef f(): return {1: 2}\n```\nIt works."
    made = code.program("{output}\n{tests}\nd = {}", said, {"tests": "assert f() == {1: 2}"})
    assert made == "def f(): return {1: 2}\n\nassert f() == {1: 2}\nd = {}"


# ---------------------------------------------------------------- judges


def test_marks_and_preferences_are_read() -> None:
    assert judge.mark_in("Fine.\nMark: 4", 5) == 0.75
    assert judge.mark_in("**mark:** 1", 5) == 0.0
    assert judge.mark_in("Mark: 9", 5) is None
    assert judge.mark_in("Good!", 5) is None
    assert judge.preferred("Better: first", "Better: second") == 1.0
    assert judge.preferred("Better: second", "better: FIRST") == 0.0
    # A judge that always likes the first place has said nothing.
    assert judge.preferred("Better: first", "Better: first") == 0.5
    assert judge.preferred("Better: same", "Better: first") == 0.25
    assert judge.preferred("I cannot say", "Better: first") is None
