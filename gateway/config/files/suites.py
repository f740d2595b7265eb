"""`evals/*.yaml`: cases with known answers, and how an answer is scored."""

from typing import Literal

from pydantic import Field

from gateway.config.fields import (
    Index,
    Name,
    Number,
    RightWhen,
    Seconds,
    Share,
    Size,
    TargetName,
    Text,
    Whole,
)
from gateway.config.files.part import Part


class ScorerPart(Part):
    """How an answer is scored, from 0 to 1."""

    kind: Literal[
        "exact",
        "normalised",
        "contains",
        "regex",
        "number",
        "schema",
        "fields",
        "bleu",
        "rouge",
        "similarity",
        "code",
        "judge",
        "python",
    ] = Field(
        description="What it looks at: the text, to the letter or but for case, punctuation and"
        " spaces; the last number; JSON that fits a schema, or the F1 of its fields; BLEU, ROUGE-L;"
        " the similarity of a sentence encoder's vectors; code that is run; a model that judges; a"
        " function of your own.",
        examples=["number"],
    )
    tolerance: Number = Field(
        default=0.0, description="`number`: how far off it may be.", examples=[0.01]
    )
    relative: Share = Field(
        default=0.0, description="`number`: how far off in parts of it.", examples=["1 %"]
    )
    schema_file: Text | None = Field(
        default=None,
        alias="schema",
        description="`schema`: the JSON Schema's file, beside the suite.",
        examples=["ticket.schema.json"],
    )
    target: TargetName | None = Field(
        default=None,
        description="`judge`: the target that judges, asked through the gateway.",
        examples=["openai/mini"],
    )
    rubric: Text | None = Field(
        default=None,
        description="`judge`: what a good answer is, in words.",
        examples=["Correct, polite and at most two sentences."],
    )
    against: Literal["rubric", "expected"] = Field(
        default="rubric",
        description="`judge`: marks by the rubric, or whether the answer is better than the"
        " expected one; asked in both orders, and half right where the orders disagree.",
        examples=["expected"],
    )
    scale: Whole = Field(default=5, description="`judge`: marks from 1 to this.", examples=[5])
    run: Text | None = Field(
        default=None,
        description="`code`: the file of Python that is run, `{output}` and the case's fields put"
        " in; right where it ends with 0.",
        examples=["check.py"],
    )
    timeout: Seconds = Field(
        default=10.0, description="`code`: how long it may take.", examples=["10 s"]
    )
    memory: Size = Field(
        default=512 * 2**20, description="`code`: what it may take.", examples=["512 MiB"]
    )
    function: Text | None = Field(
        default=None,
        description="`python`: `module:function` beside the suite; it is given what was said, what"
        " was expected and the case's fields, and answers 0 to 1. It is run as it is.",
        examples=["scorers:on_time"],
    )
    right_when: RightWhen | None = Field(
        default=None,
        description="From which score on an answer is right; `= 1` if left out.",
        examples=[">= 0.8"],
    )


class AskedPart(Part):
    """A target of a suite, with what is its own of how it is asked."""

    target: TargetName = Field(description="A declared target.", examples=["local/qwen"])
    name: Name | None = Field(
        default=None,
        description="What this way of asking is called, where a target is asked in several ways;"
        " results have this name, and such a one feeds nothing.",
        examples=["terse"],
    )
    system: Text | None = Field(
        default=None,
        description="A system prompt of its own.",
        examples=["Answer with one word."],
    )
    prompt: Text | None = Field(
        default=None, description="A template of its own.", examples=["Q: {input}\nA:"]
    )


class SuiteFile(Part):
    """`evals/*.yaml`: cases with known answers, who is asked, and how an answer is scored."""

    name: Name = Field(description="What it is called.", examples=["support"])
    route: Name | None = Field(
        default=None,
        description="The route that it is about: its candidates are asked, its results can feed"
        " what is known of them, and its `data` holds.",
        examples=["support"],
    )
    data: Text = Field(
        description="The cases, as JSONL or CSV beside this file or by path.",
        examples=["support.jsonl"],
    )
    cases: Whole | None = Field(
        default=None,
        description="How many of them are taken, by chance and always the same; all if left out.",
        examples=[200],
    )
    prompt: Text = Field(
        default="{input}",
        description="What is asked; `{input}` stands for the case's, and other fields likewise.",
        examples=["Which queue? {input}"],
    )
    expected: Text = Field(
        default="{expected}",
        description="The answer that is wanted, from the case's fields.",
        examples=["{label}"],
    )
    system: Text | None = Field(
        default=None, description="A system prompt.", examples=["Answer with one word."]
    )
    max_tokens: Whole = Field(default=64, description="Of an answer.", examples=[64])
    temperature: Number = Field(default=0.0, description="Of an answer.", examples=[0.7])
    repetitions: Whole = Field(
        default=1, description="How often each case is asked of each target.", examples=[3]
    )
    seed: Index = Field(
        default=0, description="Of the choice of cases, and of answers.", examples=[7]
    )
    targets: list[TargetName | AskedPart] = Field(
        default=[],
        description="Who is asked; the candidates of its route if left out.",
        examples=[["local/qwen", {"target": "openai/mini", "system": "Answer with one word."}]],
    )
    score: Literal["exact", "normalised", "contains", "regex"] = Field(
        default="exact",
        description="The one scorer, where `scorers` has none.",
        examples=["normalised"],
    )
    scorers: dict[Name, ScorerPart] = Field(
        default={},
        description="How an answer is scored, by names of your own.",
        examples=[{"amount": {"kind": "number", "tolerance": 0.01}}],
    )
    right: Name | None = Field(
        default=None,
        description="The scorer that says whether an answer is right; the first if left out.",
        examples=["amount"],
    )
