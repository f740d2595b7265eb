"""`switchboard validate`, `init` and `schema`."""

import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from gateway.cli import config
from gateway.config import schema
from tests.config.trees import CONTRACTS, ENV, FILES, GATEWAY, GENERAL, write


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    app = typer.Typer()
    config.register(app)
    found = CliRunner().invoke(app, arguments, env={**(env or ENV), "COLUMNS": "80"})
    return found.exit_code, found.stdout, found.stderr


def test_a_good_configuration_is_summed_up(tmp_path: Path) -> None:
    code, said, _ = run("validate", "--config", str(write(tmp_path)))
    assert code == 0
    assert f"{tmp_path} is valid: 2 routes, 1 policy, 3 targets, 0 warnings" in said


def test_every_problem_is_shown_with_its_mend(tmp_path: Path) -> None:
    changed = CONTRACTS.replace("local/qwen+contracts", "local/qwen+contract").replace(
        "balanced", "x"
    )
    write(tmp_path, {**FILES, "routes/contract-summary.yaml": changed})
    code, said, _ = run("validate", "--config", str(tmp_path))
    assert code == 1
    assert f"{tmp_path}/routes/contract-summary.yaml:10 candidates[0].target" in said
    assert "error: unknown candidate `local/qwen+contract`" in said
    assert "mend: did you mean `local/qwen+contracts`?" in said
    assert f"{tmp_path}: 2 errors, 0 warnings" in said


def test_a_warning_does_not_fail(tmp_path: Path) -> None:
    changed = GATEWAY.replace("    replica_hour: 2.20 usd\n", "")
    write(tmp_path, {**FILES, "gateway.yaml": changed})
    code, said, _ = run("validate", "--config", str(tmp_path))
    assert code == 0
    assert "warning: has no price: it is decided on as free" in said
    assert "1 warning;" in said


def test_programs_get_json(tmp_path: Path) -> None:
    code, said, _ = run("validate", "--config", str(write(tmp_path)), "--json")
    report = json.loads(said)
    assert (code, report["valid"], report["problems"]) == (0, True, [])
    assert len(report["snapshot"]) == 64
    code, said, _ = run("validate", "--config", str(tmp_path), "--json", env={"HOME": "/"})
    report = json.loads(said)
    assert (code, report["valid"], report["snapshot"]) == (1, False, None)
    assert report["problems"] == [
        {
            "file": f"{tmp_path}/gateway.yaml",
            "line": 17,
            "key": "backends.openai.api_key",
            "message": "the environment variable OPENAI_API_KEY is not set",
            "mend": "set it, or give a default: `${OPENAI_API_KEY:-text}`",
            "severity": "error",
        }
    ]


SUITE = "name: sums\nroute: general\ndata: sums.jsonl\ntargets: [local/qwen]\n"


def test_suites_are_checked_too(tmp_path: Path) -> None:
    cases = '{"input": "1+1", "expected": "2"}\n'
    write(tmp_path, {**FILES, "evals/sums.yaml": SUITE, "evals/sums.jsonl": cases})
    code, said, _ = run("validate", "--config", str(tmp_path))
    assert code == 0
    assert "3 targets, 1 suite, 0 warnings" in said
    wrong = SUITE.replace("general", "genral").replace("qwen", "qwin")
    write(tmp_path, {"evals/sums.yaml": wrong})
    code, said, _ = run("validate", "--config", str(tmp_path))
    assert code == 1
    assert f"{tmp_path}/evals/sums.yaml:2 route" in said
    assert "unknown route `genral`" in said
    assert "did you mean `general`?" in said
    assert f"{tmp_path}/evals/sums.yaml:4 targets[0]" in said
    write(tmp_path, {"evals/sums.yaml": SUITE + "color: red\n"})
    code, said, _ = run("validate", "--config", str(tmp_path), "--json")
    assert (code, json.loads(said)["valid"]) == (1, False)


def test_without_the_overlay_nothing_else_is_called_wrong(tmp_path: Path) -> None:
    shadow = "shadow: {target: openai/mini, traffic: 5 %, budget: 5 usd}\n"
    write(tmp_path, {**FILES, "routes/general.yaml": GENERAL + shadow})
    assert run("validate", "--config", str(tmp_path))[0] == 0
    code, said, _ = run("validate", "--config", str(tmp_path), "--env", "prod")
    assert code == 1
    assert "there is no such file, and the environment is `prod`" in said
    assert "1 error, 0 warnings" in said


def test_init_then_validate(tmp_path: Path) -> None:
    new = tmp_path / "new"
    code, said, _ = run("init", str(new))
    assert code == 0
    assert f"wrote {new}/gateway.yaml" in said
    assert run("validate", "--config", str(new))[0] == 0
    code, _, said = run("init", str(new))
    assert code == 1
    assert "nothing was written" in said


def test_schema_writes_and_checks(tmp_path: Path) -> None:
    assert run("schema", str(tmp_path / "schemas"))[0] == 0
    assert schema.stale(tmp_path / "schemas") == []
    assert run("schema", str(tmp_path / "schemas"), "--check")[0] == 0
    (tmp_path / "schemas" / "route.json").write_text("{}")
    code, said, _ = run("schema", str(tmp_path / "schemas"), "--check")
    assert code == 1
    assert "route.json is not current" in said
