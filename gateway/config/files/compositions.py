"""`compositions` in `gateway.yaml`: targets made of other targets."""

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.fields import (
    Name,
    Number,
    Pattern,
    Share,
    TargetName,
    Text,
    Usd,
    Whole,
)
from gateway.config.files.part import Part

ESCALATES = 0.5
"""The share of a cascade's requests that ask a further step, where nobody has said it."""

TEMPERATURE = 0.7
"""At which the same is asked several times: at 0 it would say the same each time."""


class RegexPart(Part):
    """A check: the whole answer, but for space around it, matches a pattern."""

    kind: Literal["regex"] = Field(description="A regular expression.")
    pattern: Pattern = Field(
        description="Python's regular expression; `.` is a line's end, too.",
        examples=["(billing|shipping)"],
    )


class ContainsPart(Part):
    """A check: a text stands in the answer."""

    kind: Literal["contains"] = Field(description="A text.")
    text: Text = Field(description="What must stand in it.", examples=["Kind regards"])


class SchemaPart(Part):
    """A check: the answer is JSON that fits a JSON Schema; a code fence around it is allowed."""

    kind: Literal["schema"] = Field(description="A JSON Schema.")
    schema_: dict[Text, object] | Text = Field(
        alias="schema",
        description="The schema, or its file, from the configuration's directory.",
        examples=["schemas/ticket.json", {"type": "object", "required": ["queue"]}],
    )


class LogProbabilityPart(Part):
    """A check: the model was sure of its words. It is asked for log-probabilities for that, which a
    client that did not ask for them does not see."""

    kind: Literal["log_probability"] = Field(description="How sure the model was.")
    least: Share = Field(
        description="Least geometric mean of its tokens' probabilities, exp(mean log-probability).",
        examples=["90 %"],
    )


class AgreementPart(Part):
    """A check: asked several times, the same target says the same. What most say is the answer."""

    kind: Literal["agreement"] = Field(description="Self-consistency.")
    samples: Whole = Field(
        default=3, description="How often it is asked in all; the first counts.", examples=[5]
    )
    least: Share = Field(
        default=0.6, description="Least share of them that are alike.", examples=["60 %"]
    )
    temperature: Number = Field(
        default=TEMPERATURE,
        description="At which it is asked again, whatever the client's is.",
        examples=[0.7],
    )
    alike: Literal["text", "number", "json"] = Field(
        default="text",
        description="By what two are alike: their words, but for case and punctuation; the last"
        " number in them; their JSON value.",
        examples=["number"],
    )


class MarksPart(Part):
    """A target that marks answers by a rubric."""

    target: TargetName = Field(
        description="The target that judges; no composition.", examples=["openai/mini"]
    )
    rubric: Text = Field(
        description="What a good answer is, in words.",
        examples=["Correct, polite and at most two sentences."],
    )
    scale: Whole = Field(
        default=5, description="Marks are from 1, the worst, to this.", examples=[5]
    )


class JudgedPart(MarksPart):
    """A check: a model that judges gives the answer a mark."""

    kind: Literal["judge"] = Field(description="A model that judges.")
    least: Number = Field(default=4.0, description="Least mark that passes.", examples=[4])


CheckPart = Annotated[
    RegexPart | ContainsPart | SchemaPart | LogProbabilityPart | AgreementPart | JudgedPart,
    Field(discriminator="kind"),
]


class OwnPart(Part):
    """A step with something of its own."""

    target: TargetName = Field(
        description="A declared target that is no composition.", examples=["local/qwen"]
    )
    name: Name | None = Field(
        default=None, description="What it is called; its number if left out.", examples=["draft"]
    )
    system: Text | None = Field(
        default=None,
        description="A file with a system prompt of its own here, put before the application's"
        " messages; from the configuration's directory.",
        examples=["prompts/contracts-base.md"],
    )


class StepPart(OwnPart):
    """A step of a cascade with something of its own."""

    checks: list[CheckPart] | None = Field(
        default=None,
        min_length=1,
        description="What its answer must pass; the cascade's if left out.",
        examples=[[{"kind": "regex", "pattern": "(billing|shipping)"}]],
    )


class LinkPart(OwnPart):
    """A step of a chain."""

    prompt: Text | None = Field(
        default=None,
        description="What it is asked in the place of the user's last message: `{input}` stands for"
        " that, `{NAME}` for what the step of that name has said. Left out, what the user asked.",
        examples=['Mend this answer to "{input}" as the notes say.\n{draft}\nNotes: {check}'],
    )
    max_tokens: Whole | None = Field(
        default=None,
        description="Most tokens of its answer; the client's own bound if left out.",
        examples=[300],
    )


class BoundedPart(Part):
    """What every composition may have."""

    max_cost: Usd | None = Field(
        default=None,
        description="Most that a request may cost, all steps together: none is begun that could"
        " cost more, and the latest answer that there is is given.",
        examples=["0.01 usd"],
    )


class CascadePart(BoundedPart):
    """A cascade: its steps are asked one after the other, cheap first, until an answer passes its
    checks. The last one's is given whatever it is."""

    kind: Literal["cascade"] = Field(description="A cascade.")
    steps: list[TargetName | StepPart] = Field(
        min_length=2,
        description="Who is asked, in this order.",
        examples=[["local/qwen+support", "openai/mini"]],
    )
    checks: list[CheckPart] = Field(
        default=[],
        description="What an answer must pass, all of it; of each step that has no checks of its"
        " own.",
        examples=[[{"kind": "regex", "pattern": "(billing|shipping)"}]],
    )
    escalates: Share = Field(
        default=ESCALATES,
        description="The share of answers that do not pass, as far as you know: decisions go by it"
        " until it has been measured.",
        examples=["20 %"],
    )


class VotePart(Part):
    """By what most answers say."""

    by: Literal["vote"] = Field(description="What most of them say.", examples=["vote"])
    alike: Literal["text", "number", "json"] = Field(
        default="text",
        description="By what two are alike: their words, but for case and punctuation; the last"
        " number in them; their JSON value.",
        examples=["number"],
    )


class ChosenPart(MarksPart):
    """By the mark that a model gives each answer by itself."""

    by: Literal["judge"] = Field(
        description="The best mark of a model that judges.", examples=["judge"]
    )


class BestOfPart(BoundedPart):
    """The best of several answers, which are asked for at the same time."""

    kind: Literal["best_of"] = Field(description="The best of several answers.")
    steps: list[TargetName | OwnPart] = Field(
        min_length=1,
        description="Who is asked.",
        examples=[["local/qwen"], ["local/qwen+support", "openai/mini", "openai/nano"]],
    )
    samples: Whole = Field(default=1, description="How often each of them is asked.", examples=[5])
    temperature: Number = Field(
        default=TEMPERATURE,
        description="At which each is asked where that is more than once, whatever the client's"
        " is.",
        examples=[0.7],
    )
    choose: Annotated[VotePart | ChosenPart, Field(discriminator="by")] = Field(
        default=VotePart(by="vote"),
        description="How one of them is chosen; of equal ones the earliest.",
        examples=[{"by": "vote"}, {"by": "judge", "target": "openai/mini", "rubric": "Correct."}],
    )


class ChainPart(BoundedPart):
    """A chain: what one step has said goes into what the next is asked. The last one answers."""

    kind: Literal["chain"] = Field(description="A chain, such as draft, check, rewrite.")
    steps: list[LinkPart] = Field(
        min_length=2,
        description="Who is asked, in this order, and what.",
        examples=[
            [
                {"name": "draft", "target": "local/qwen"},
                {"target": "openai/mini", "prompt": "Mend this: {draft}"},
            ]
        ],
    )


AnyComposition = Annotated[CascadePart | BestOfPart | ChainPart, Field(discriminator="kind")]
