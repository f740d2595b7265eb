"""OpenAI's own SDK on a sample of the faults: what an application's code gets to see."""

from pathlib import Path

import openai
import pytest

from gateway.standin import Behaviour, Fault, FaultKind, StandIn
from gateway.types.policies import Policy
from tests.gateway.support import serving, snapshot, target

K = FaultKind
SAID = "one two three four five"
ONCE = {"quality": Policy("quality", tries=2, retries=0)}


async def streamed(url: str, said: list[str]) -> None:
    """Puts what comes into `said`, until the end or an error."""
    async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "count"}], stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                said.append(chunk.choices[0].delta.content)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind=K.CUT, reset=True),
        Fault(kind=K.CUT_IN_EVENT),
        Fault(kind=K.END),
        Fault(kind=K.MALFORMED_JSON),
        Fault(kind=K.ERROR_EVENT),
        Fault(kind=K.ERROR_TEXT),
    ],
    ids=lambda fault: str(fault.kind),
)
async def test_a_stream_that_breaks_raises_after_what_came(fault: Fault, tmp_path: Path) -> None:
    said: list[str] = []
    async with StandIn(Behaviour(lambda _: SAID, fault=fault)) as provider:
        made = snapshot([target("p/m", provider.url)], policies=ONCE)
        async with serving(made, tmp_path) as served:
            with pytest.raises(openai.APIError):
                await streamed(served.url, said)
    assert "".join(said) == "one two"


@pytest.mark.parametrize("kind", [K.NO_DONE, K.CUT_BEFORE_DONE, K.SLOW, K.NO_USAGE])
async def test_an_odd_stream_that_is_whole_raises_nothing(kind: FaultKind, tmp_path: Path) -> None:
    said: list[str] = []
    async with StandIn(Behaviour(lambda _: SAID, fault=Fault(kind=kind))) as provider:
        made = snapshot([target("p/m", provider.url)], policies=ONCE)
        async with serving(made, tmp_path) as served:
            await streamed(served.url, said)
    assert "".join(said) == SAID


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (Fault(kind=K.HTML), openai.InternalServerError),
        (Fault(kind=K.CUT_BEFORE_HEAD), openai.InternalServerError),
        (Fault(kind=K.STATUS, status=429, retry_after=7), openai.RateLimitError),
        (Fault(kind=K.STATUS, status=400, code="odd"), openai.BadRequestError),
    ],
    ids=lambda each: str(getattr(each, "kind", "")),
)
async def test_what_fails_before_the_first_event_has_its_own_kind_of_error(
    fault: Fault, raised: type[openai.APIStatusError], tmp_path: Path
) -> None:
    async with StandIn(Behaviour(fault=fault)) as provider:
        made = snapshot([target("p/m", provider.url)], policies=ONCE)
        async with serving(made, tmp_path) as served:
            with pytest.raises(raised) as caught:
                await streamed(served.url, [])
    assert caught.value.request_id
