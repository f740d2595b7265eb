"""`compositions` in `gateway.yaml`: targets made of other targets."""

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.fields import Name, Pattern, Share, TargetName, Text, Usd
from gateway.config.files.part import Part

ESCALATES = 0.5
"""The share of a cascade's requests that ask a further step, where nobody has said it."""


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


CheckPart = Annotated[RegexPart | ContainsPart | SchemaPart, Field(discriminator="kind")]


class StepPart(Part):
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
    checks: list[CheckPart] | None = Field(
        default=None,
        min_length=1,
        description="What its answer must pass; the cascade's if left out.",
        examples=[[{"kind": "regex", "pattern": "(billing|shipping)"}]],
    )


class CascadePart(Part):
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
    max_cost: Usd | None = Field(
        default=None,
        description="Most that a request may cost, all steps together: none is begun that could"
        " cost more, and the latest answer that there is is given.",
        examples=["0.01 usd"],
    )
