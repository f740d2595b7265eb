"""The table of `switchboard explain`, and its JSON."""

import io
import json

import msgspec
import pytest
from rich.console import Console

from gateway.cli.explain import render, to_json
from gateway.policy.decide import decide
from gateway.policy.live import Live
from gateway.types.compositions import StepTaken
from gateway.types.decisions import Decision, Question
from gateway.types.policies import Limits, Policy
from gateway.types.requests import Recognition
from gateway.types.snapshot import Snapshot

from .world import policy, question, route, snapshot, target

LOCAL = target("local/qwen", internal=True, input_price=1e-7, output_price=1e-7)
ADAPTED = target("local/qwen+contracts", internal=True, input_price=1e-7, output_price=1e-7)
MINI = target("openai/mini", first_token_s=0.4, tokens_per_s=100.0)
LARGE = target("openai/large", input_price=1e-5, output_price=4e-5)
QUALITIES = [
    ("local/qwen+contracts", 0.97),
    ("local/qwen", 0.80),
    ("openai/mini", 0.90),
    ("openai/large", 0.98),
]
CERTAIN = Recognition("work", "keyword", detail="clause, [lessee]")


def world(chosen: Policy | None = None, *, internal: bool = False) -> Snapshot:
    return snapshot(
        [route(QUALITIES, internal=internal)], [LOCAL, ADAPTED, MINI, LARGE], chosen or policy()
    )


def ask(config: Snapshot, asked: Question | None = None, draw: float = 0.5) -> Decision:
    return decide(asked or question(), config, Live(), draw)


def printed(
    config: Snapshot,
    asked: Question | None = None,
    *,
    recognition: Recognition | None = CERTAIN,
    width: int = 160,
    draw: float = 0.5,
    colours: bool = False,
) -> list[str]:
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=colours, color_system="standard" if colours else None
    )
    console.print(render(ask(config, asked, draw), recognition, config))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_decision_reads_as_a_table() -> None:
    assert printed(world(policy(limits=Limits(cost=0.001), explore=0.02)), width=150) == [
        "route   work  by keyword: clause, [lessee]  (certain)",
        "policy  balanced  draw 0.5, snapshot h",
        "choice  local/qwen+contracts at http://local: the greatest net value",
        "",
        "   target                   quality    cost $  first s  whole s     net $  chance"
        "  verdict",
        "1  local/qwen+contracts  0.97 ±0.04  0.000030     0.54      4.5  0.016020  98.7 %"
        "  the greatest net value",
        "2  openai/mini           0.90 ±0.07  0.000900     0.40      2.4  0.015100   0.7 %"
        "  $0.00092 less: right less often (0.90, not 0.97), dearer by",
        " " * 83 + "$0.00087, though 2.1 s faster in all, first token 0.14 s sooner",
        "3  local/qwen            0.80 ±0.09  0.000030     0.50      4.5  0.012720   0.7 %"
        "  $0.0033 less: right less often (0.80, not 0.97)",
        "–  openai/large          0.98 ±0.03  0.009000     0.50      4.5  0.007350       –"
        "  costs $0.009, over $0.001",
    ]


@pytest.mark.parametrize("width", [80, 100, 119])
def test_on_a_narrow_terminal_the_verdicts_stand_below(width: int) -> None:
    lines = printed(world(policy(limits=Limits(cost=0.001))), width=width)
    assert max(map(len, lines)) <= width
    text = " ".join(lines)
    assert "net $" in text
    assert "1 local/qwen+contracts: the greatest net value" in text
    assert "– openai/large: costs $0.009, over $0.001" in text


def test_a_name_that_has_no_room_is_broken_before_its_adapter() -> None:
    lines = printed(world(), width=80)
    names = [line[3:].split("  ")[0].strip() for line in lines]
    assert "local/qwen" in names
    assert "+contracts" in names


def test_figures_stand_below_each_other() -> None:
    lines = printed(world())
    heading = next(line for line in lines if "net $" in line)
    end = heading.index("net $") + len("net $")
    rows = [line for line in lines if line[:1] in "1234" and line[1:2] == " "]
    assert len(rows) == 4
    assert {line[:end].split()[-1] for line in rows} == {
        "0.016020",
        "0.015100",
        "0.012720",
        "0.007350",
    }


def test_the_impossible_says_why() -> None:
    lines = printed(world(internal=True))
    impossible = [line for line in lines if line.startswith("✗")]
    assert [line.split()[1] for line in impossible] == ["openai/mini", "openai/large"]
    assert all(line.endswith("the route's data is internal") for line in impossible)


@pytest.mark.parametrize(
    ("config", "asked", "words"),
    [
        (world(internal=True), question(only="openai/mini"), "impossible: hard facts"),
        (world(policy(limits=Limits(cost=0.0), refuse=True)), question(), "refused: no candidate"),
        (world(policy(limits=Limits(cost=0.0))), question(), "the least bad"),
        (world(), question(only="openai/mini"), "the target that was asked for"),
    ],
)
def test_the_choice_is_said_in_one_line(config: Snapshot, asked: Question, words: str) -> None:
    line = next(line for line in printed(config, asked) if line.startswith("choice"))
    assert words in line


def test_what_is_ranked_over_a_limit_says_both() -> None:
    lines = printed(world(policy(limits=Limits(cost=0.0))), width=220)
    winner = next(line for line in lines if line.startswith("1"))
    assert winner.endswith("the least bad: none is within the limits; costs $0.00003, over $0")
    assert not any(line.startswith("–") for line in lines)


@pytest.mark.parametrize(
    ("recognition", "words"),
    [
        (Recognition("work", "named"), "route   work  the model names it  (certain)"),
        (Recognition("work", "alias", detail="gpt-4o"), "an alias names it: gpt-4o  (certain)"),
        (Recognition("work", "header", detail="x-a: b"), "by a header: x-a: b  (certain)"),
        (Recognition("work", "pattern", detail="[0-9]+"), "by pattern: [0-9]+  (certain)"),
        (Recognition("work", "classifier", 0.834), "by the classifier  (confidence 0.83)"),
        (Recognition("work", "conversation", 0.7), "by an earlier turn  (confidence 0.70)"),
        (Recognition("work", "default", 0.2), "the default route  (confidence 0.20)"),
        (None, "route   work"),
    ],
)
def test_the_route_says_how_it_was_known(recognition: Recognition | None, words: str) -> None:
    assert printed(world(), recognition=recognition)[0].endswith(words)


def test_replicas_are_named_where_there_are_several() -> None:
    pair = target("local/qwen", internal=True, replicas=("http://gpu-1", "http://gpu-2"))
    config = snapshot([route([("local/qwen", 0.9)])], [pair], policy())
    text = "\n".join(printed(config))
    assert "  http://gpu-1" in text
    assert "  http://gpu-2" in text
    assert "another replica: as good" in text


@pytest.mark.parametrize(
    ("mark", "colour"), [("1", "\x1b[1;32m"), ("–", "\x1b[33m"), ("✗", "\x1b[31m")]
)
def test_colours_say_what_the_marks_say(mark: str, colour: str) -> None:
    config = world(policy(limits=Limits(quality=0.9)), internal=True)
    assert any(line.startswith(f"{colour}{mark}") for line in printed(config, colours=True))


def test_json_has_every_term_and_verdict() -> None:
    config = world(policy(limits=Limits(cost=0.001)))
    decision = ask(config)
    told = json.loads(json.dumps(to_json(decision, CERTAIN, config)))
    assert told["recognition"] == {
        "route": "work",
        "by": "keyword",
        "confidence": 1.0,
        "detail": "clause, [lessee]",
    }
    assert told["decision"]["ranked"][0]["verdict"] == "the greatest net value"
    assert told["decision"]["ruled_out"][0]["reason"] == "costs $0.009, over $0.001"
    again = msgspec.convert(told["decision"], Decision)
    assert again.ranked[0].net == decision.ranked[0].net
    assert again.ruled_out == decision.ruled_out


def test_json_without_recognition_has_null() -> None:
    config = world()
    assert to_json(ask(config), None, config)["recognition"] is None


def test_the_steps_of_a_composition_stand_below_what_was_chosen() -> None:
    config = world()
    taken = (
        StepTaken("1", "local/qwen", "escalated: does not match [a-z]+"),
        StepTaken("2", "openai/large", "answered"),
    )
    decision = msgspec.structs.replace(ask(config), steps=taken)
    out = io.StringIO()
    Console(file=out, width=160).print(render(decision, CERTAIN, config))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[3:5] == [
        "step    1  local/qwen: escalated: does not match [a-z]+",
        "step    2  openai/large: answered",
    ]
    assert to_json(decision, CERTAIN, config)["decision"]["steps"][1]["came_to"] == "answered"
