"""What answers are worth, by every kind of scorer that needs no model."""

import asyncio
import errno
import os
import time
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


async def test_what_code_starts_is_ended_with_it() -> None:
    token = f"token-{os.getpid()}"
    source = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    python, wait = sys.executable, 'import time; time.sleep(60)'\n"
        f"    os.execv(python, [python, '-c', wait, {token!r}])\n"
        "time.sleep(30)\n"
    )
    running = asyncio.create_task(code.works(source, 10.0, 256 << 20))
    await asyncio.to_thread(_wait_until, token, True)
    assert not running.done()
    assert (await running)[1] == "not done after 10 s"
    # The kernel ends all of the room with its first process.
    await asyncio.to_thread(_wait_until, token, False)


def _wait_until(token: str, wanted: bool) -> None:
    until = time.monotonic() + 60
    while _running(token) != wanted:
        assert time.monotonic() < until
        time.sleep(0.05)


def _running(token: str) -> bool:
    def arguments(folder: Path) -> bytes:
        try:
            return (folder / "cmdline").read_bytes()
        except OSError:
            return b""

    return any(
        token.encode() in arguments(each).split(b"\0") for each in Path("/proc").glob("[0-9]*")
    )


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that anybody could read and write, were it not for the room."""
    tmp_path.chmod(0o777)
    path = tmp_path / "secret"
    path.write_text("s3cret")
    path.chmod(0o666)
    return path


async def test_code_sees_nothing_of_this_machine_and_changes_nothing(secret: Path) -> None:
    for source in (
        f"print(open({str(secret)!r}).read())",
        f"open({str(secret)!r}, 'a').write('x')",
        f"import os; os.mkdir({str(secret.parent)!r})",
        "open('/etc/passwd')",
        "import os; os.listdir('/proc')",
        "open('/usr/written', 'w')",
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "remount = 32 | 4096\n"
        "assert 0 in (libc.umount2(b'/usr', 2), libc.mount(None, b'/usr', None, remount, None))",
        "import ctypes; assert ctypes.CDLL(None).chroot(b'/home') == 0",
        "import os; os.setuid(0); os.kill(1, 9); import time; time.sleep(2); assert False",
        "for n in range(9): open(f'f{n}', 'wb').write(b'x' * (15 << 20))",
    ):
        worked, said = await code.works(source, 60.0, 256 << 20)
        assert not worked, source
        assert said
    assert await asyncio.to_thread(secret.read_text) == "s3cret"
    # What such code may well need is there.
    assert await code.works(
        "import json, os, random, tempfile, threading, zoneinfo\n"
        "assert tempfile.TemporaryFile().write(b'x')\nassert os.urandom(2)\n"
        "started = threading.Thread(target=lambda: open('out', 'w').write('x'))\n"
        "started.start(); started.join()\nassert open('out').read() == 'x'\n"
        "print('x', file=open('/dev/null', 'w'))",
        60.0,
        256 << 20,
    ) == (True, "")


async def test_a_fork_bomb_has_few_processes() -> None:
    source = (
        "import os\n"
        "children = 0\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0:\n"
        "            while True: pass\n"
        "        children += 1\n"
        "except OSError as error:\n"
        "    raise SystemExit(f'{children} and {error.errno}')\n"
    )
    worked, said = await code.works(source, 60.0, 256 << 20)
    assert not worked
    children, _, number = said.strip().partition(" and ")
    assert int(children) < code.PROCESSES
    assert int(number) == errno.EAGAIN


async def test_code_that_ends_before_it_is_checked_has_not_passed() -> None:
    for said, right in (
        ("def f(): return 1", True),
        ("def f(): return 2", False),
        ("import sys; sys.exit(0)", False),
        ("import os; os._exit(0)", False),
        ("def f(): raise SystemExit", False),
    ):
        source = code.program("{output}\nassert f() == 1", said, {})
        worked, why = await code.works(source, 60.0, 256 << 20)
        assert worked == right, (said, why)
    # A check may end the program itself.
    source = code.program("{output}\nimport sys\nsys.exit(f())", "def f(): return 0", {})
    assert (await code.works(source, 60.0, 256 << 20))[0]


async def test_where_no_room_can_be_made_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "DISK", "much")
    with pytest.raises(ScorerError, match=r"no room can be made here.*user namespaces"):
        await code.works("pass", 60.0, 256 << 20)


def test_a_program_has_the_answers_code_and_the_cases_fields() -> None:
    said = "Here it is:\n```python\ndef f(): return {1: 2}\n```\nIt works."
    made = code.program("{output}\n{tests}\nd = {}", said, {"tests": "assert f() == {1: 2}"})
    code_of_it = "def f(): return {1: 2}\n\nassert f() == {1: 2}\nd = {}"
    assert made == f"{code_of_it}\n{code.MARK}\n"


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
