"""`python -m gateway.standin`: a stand-in as a process of its own; prints its base URL."""

import argparse
import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop
import yaml

from gateway.standin.behaviour import (
    LOGPROB,
    Answerer,
    Behaviour,
    Fault,
    Reply,
    echo,
    say,
    table,
)
from gateway.standin.engine import Vllm
from gateway.standin.standin import StandIn


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer for questions in which a regular expression is found."""

    match: str
    say: str
    logprob: float = LOGPROB


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A behaviour as a file says it; it echoes unless it says something else."""

    say: str | None = None
    table: tuple[Row, ...] = ()
    first_token_s: float = 0.0
    between_tokens_s: float = 0.0
    output_tokens: int | None = None
    refuses: frozenset[str] = frozenset()
    context: int | None = None
    calls_tools: bool = True
    dimensions: int = 64
    head_first: bool = False
    fault: Fault | None = None
    goes_on: bool = False

    def behaviour(self) -> Behaviour:
        """The behaviour meant."""
        otherwise: Answerer = say(self.say) if self.say is not None else echo
        rows = [(row.match, Reply(row.say, logprob=row.logprob)) for row in self.table]
        return Behaviour(
            answer=table(rows, otherwise) if rows else otherwise,
            first_token_s=self.first_token_s,
            between_tokens_s=self.between_tokens_s,
            output_tokens=self.output_tokens,
            refuses=self.refuses,
            context=self.context,
            calls_tools=self.calls_tools,
            dimensions=self.dimensions,
            head_first=self.head_first,
            fault=self.fault,
            goes_on=self.goes_on,
        )


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stand-in as a file says it."""

    models: dict[str, Model] = {}
    keys: tuple[str, ...] = ()
    lenient: bool = False
    repeat: bool = False
    slots: int | None = None
    vllm: Vllm | None = None


def read(path: Path) -> Config:
    """The file's configuration; msgspec.ValidationError names the place of what is wrong."""
    return msgspec.convert(yaml.safe_load(path.read_text()) or {}, Config)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(prog="python -m gateway.standin", description=__doc__)
    command.add_argument("--host", default="127.0.0.1", help="address to listen on")
    command.add_argument("--port", type=int, default=0, help="0 takes a free one")
    command.add_argument(
        "--config", type=Path, help="YAML: models, keys, lenient, repeat, slots, vllm"
    )
    command.add_argument("--models", default="", help="names, with commas; '*' for any")
    command.add_argument("--key", action="append", default=[], help="bearer key to require")
    command.add_argument("--vllm", metavar="BASE", help="mimic vLLM with this base model")
    command.add_argument("--first-token", type=float, default=0.0, help="seconds")
    command.add_argument("--between-tokens", type=float, default=0.0, help="seconds")
    command.add_argument("--output-tokens", type=int, help="length of every answer")
    command.add_argument("--slots", type=int, help="answers made at once; the rest wait")
    command.add_argument("--ledger", type=Path, help="file that every call is appended to")
    command.add_argument("--lenient", action="store_true", help="accept any model, id, parameter")
    command.add_argument("--repeat", action="store_true", help="make equal answers only once")
    return command


def standin_of(arguments: argparse.Namespace) -> StandIn:
    """The stand-in that the command line and its file describe."""
    config = read(arguments.config) if arguments.config else Config()
    plain = Model(
        first_token_s=arguments.first_token,
        between_tokens_s=arguments.between_tokens,
        output_tokens=arguments.output_tokens,
    )
    named = {name: plain for name in arguments.models.split(",") if name}
    vllm = Vllm(base=arguments.vllm) if arguments.vllm else config.vllm
    models = {**config.models, **named} or {vllm.base if vllm else "*": plain}
    return StandIn(
        {name: model.behaviour() for name, model in models.items()},
        keys=[*config.keys, *arguments.key],
        lenient=config.lenient or arguments.lenient,
        repeat=config.repeat or arguments.repeat,
        vllm=vllm,
        slots=arguments.slots or config.slots,
        host=arguments.host,
        port=arguments.port,
        remember=0,
        ledger=arguments.ledger,
    )


async def serve(arguments: argparse.Namespace) -> None:
    """Serves until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with standin_of(arguments) as standin:
        print(standin.url, flush=True)
        await stop.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    uvloop.run(serve(parser().parse_args(argv)))


if __name__ == "__main__":
    main()
