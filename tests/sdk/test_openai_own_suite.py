"""openai-python's own tests of its resources, from its source distribution."""

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from gateway.standin import StandIn
from tests.sdk.run import program, run
from tests.sdk.setup_envs import ENVS

SETTINGS = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = session
filterwarnings = error
"""

RESOURCES = "tests/api_resources"
FILES = [
    f"{RESOURCES}/{name}"
    for name in (
        "chat/test_completions.py",
        "test_completions.py",
        "test_embeddings.py",
        "test_models.py",
        "test_responses.py",
    )
]
MORE = [f"{RESOURCES}/chat/completions", f"{RESOURCES}/responses"]
CORE = "create or TestModels and not delete or TestAsyncModels and not delete"
"""Making chats, completions, embeddings and responses, and listing and finding models."""

CORE_TESTS = 175
ALL_TESTS = 455


class Outcome(NamedTuple):
    """How many of the tests passed, and what the others said."""

    passed: int
    failed: dict[str, str]


async def own_tests(url: str, scratch: Path, files: list[str], *more: str) -> Outcome:
    """Runs openai-python's own tests against the API at `url`."""
    settings, report = scratch / "pytest.ini", scratch / "report.xml"
    settings.write_text(SETTINGS)
    env = ENVS["openai-own"].path
    status, out, err = await run(
        *(program("openai-own"), "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"),
        *("-c", str(settings), "--rootdir", str(env), f"--junitxml={report}", *more, *files),
        cwd=env,
        TEST_API_BASE_URL=url,
    )
    if status not in (0, 1):
        raise AssertionError(f"pytest ended with {status}:\n{out}{err}")
    passed, failed = 0, {}
    # The report is what the line above has just written.
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next(iter(case), None)
        if problem is None or problem.tag in ("properties", "system-out", "system-err"):
            passed += 1
        else:
            failed[f"{case.get('classname')}.{case.get('name')}"] = problem.get("message") or ""
    return Outcome(passed, failed)


async def test_the_core_passes(open_gateway_url: str, tmp_path: Path) -> None:
    outcome = await own_tests(open_gateway_url, tmp_path, FILES, "-k", CORE)
    assert outcome == Outcome(CORE_TESTS, {})


async def test_the_stand_in_passes_all_of_them(schema_mock: StandIn, tmp_path: Path) -> None:
    outcome = await own_tests(schema_mock.url, tmp_path, FILES + MORE)
    assert outcome == Outcome(ALL_TESTS, {})


async def test_a_wrong_api_fails(provider: StandIn, tmp_path: Path) -> None:
    """The suite can fail: an API that refuses the key and the models passes almost nothing."""
    outcome = await own_tests(provider.url, tmp_path, FILES[2:3])
    assert outcome.passed == 0
    assert len(outcome.failed) == 20
