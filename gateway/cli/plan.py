"""`switchboard plan`: whether a base with its adapters fits a card, before one is rented."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli.opening import JsonOption, console
from gateway.cli.records import ASIDE, Cell, Lines

if TYPE_CHECKING:
    from gateway.adapters.sizing import Ask, Gpu, Plan

GIB = 2**30


def register(app: typer.Typer) -> None:
    """Adds `plan`."""

    @app.command()
    def plan(
        base: Annotated[
            Path, typer.Option(metavar="CONFIG", help="The base's config.json, or its directory.")
        ],
        gpu: Annotated[
            str,
            typer.Option(metavar="NAME", help="T4, L4, A10G, L40S, A100-80GB, H100 and others."),
        ] = "L4",
        memory: Annotated[
            str | None, typer.Option(metavar="SIZE", help="Another card's memory: 12 GiB.")
        ] = None,
        bandwidth: Annotated[
            float | None, typer.Option(metavar="GB/S", help="Its memory's bandwidth.")
        ] = None,
        compute: Annotated[
            float | None, typer.Option(metavar="TFLOP/S", help="Its dense 16-bit operations.")
        ] = None,
        gpus: Annotated[
            int, typer.Option(min=1, metavar="N", help="Cards that share one model.")
        ] = 1,
        quantization: Annotated[
            str,
            typer.Option(
                metavar="KIND", help="Of the weights: bf16, fp16, fp8, awq, gptq or bnb4."
            ),
        ] = "bf16",
        context: Annotated[
            int, typer.Option(min=1, metavar="N", help="Tokens of one request.")
        ] = 8192,
        concurrency: Annotated[
            int, typer.Option(min=1, metavar="N", help="Requests at once.")
        ] = 16,
        adapters: Annotated[int, typer.Option(min=0, metavar="N", help="Adapters in all.")] = 0,
        rank: Annotated[
            int, typer.Option(min=1, metavar="N", help="The largest rank of them.")
        ] = 16,
        slots: Annotated[
            int | None,
            typer.Option(min=1, metavar="N", help="Of those on the GPU at once; all if left out."),
        ] = None,
        kv_cache: Annotated[
            str, typer.Option(metavar="KIND", help="How keys and values are kept: bf16 or fp8.")
        ] = "bf16",
        hour: Annotated[
            float | None, typer.Option(metavar="USD", help="What the cards cost an hour.")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Show what the weights, the adapters and the KV cache take of a card, and what is left.

        Speeds are a roofline: what the card could give at best. Ends with 1 where it does not fit.
        """
        from gateway.adapters import files, sizing

        if quantization not in get_args(sizing.Quantization):
            kinds = ", ".join(get_args(sizing.Quantization))
            raise typer.BadParameter(f"'{quantization}' is none of {kinds}")
        if kv_cache not in ("bf16", "fp8"):
            raise typer.BadParameter(f"'{kv_cache}' is neither bf16 nor fp8")
        card = _card(gpu, memory, bandwidth, compute)
        ask = sizing.Ask(
            quantization=quantization,  # type: ignore[arg-type]
            context=context,
            concurrency=concurrency,
            adapters=adapters,
            rank=rank,
            slots=min(slots or adapters, adapters),
            kv_bytes=1 if kv_cache == "fp8" else 2,
            gpus=gpus,
        )
        try:
            found = sizing.plan(files.read_base(base), card, ask)
        except (files.AdapterError, sizing.SizingError) as error:
            raise typer.BadParameter(str(error)) from None
        if as_json:
            print(msgspec.json.encode({"gpu": card, "ask": ask, "plan": found}).decode())
        else:
            _print(console(), card, ask, found, hour)
        if not found.fits:
            raise typer.Exit(1)


def _card(name: str, memory: str | None, bandwidth: float | None, compute: float | None) -> "Gpu":
    from gateway.adapters.sizing import GPUS
    from gateway.config import units

    known = GPUS.get(name.lower())
    if known is None:
        names = ", ".join(gpu.name for gpu in GPUS.values())
        raise typer.BadParameter(f"'{name}' is none of {names}; or give one's --memory")
    changes: dict[str, Any] = {}
    if memory is not None:
        try:
            changes = {"name": "a card", "memory": units.parse(memory, units.SIZE)}
        except units.UnitError as error:
            raise typer.BadParameter(f"{error.message}; {error.mend}") from None
    if bandwidth is not None:
        changes["bandwidth"] = bandwidth * 1e9
    if compute is not None:
        changes["compute"] = compute * 1e12
    return msgspec.structs.replace(known, **changes)


def _print(out: Console, card: "Gpu", ask: "Ask", found: "Plan", hour: float | None) -> None:
    each = " on each card" if ask.gpus > 1 else ""
    rows = [
        (found.weights, "weights", f"{found.parameters:,} parameters in {ask.quantization}"),
        (found.adapters, "adapters", f"{ask.slots} slots of rank {found.max_rank}"),
        (found.kv, "KV cache", f"{ask.concurrency} requests of {ask.context:,} tokens"),
        (found.activations, "activations", "one step of 8,192 tokens, estimated"),
        (found.runtime, "runtime", "CUDA and its graphs, estimated"),
        (found.left, "left", ""),
        (found.usable, "in all", f"92 % of {escape(card.name)}'s {card.memory / GIB:.1f} GiB"),
    ]
    Lines(out, (f"what{each}", "GiB", "")).print(
        [
            [
                Cell(what, "bold" if what == "in all" else ""),
                Cell(f"{size / GIB:.2f}", "red" if size < 0 else "", figure=True),
                Cell(how, ASIDE),
            ]
            for size, what, how in rows
        ]
    )
    out.print()
    if found.fits:
        out.print(
            f"[green]It fits.[/green] The KV cache takes {found.tokens:,} tokens in all: "
            f"{found.most_requests:,} requests of {ask.context:,}."
        )
    else:
        out.print(
            f"[red]It does not fit: {-found.left / GIB:.2f} GiB are missing.[/red] "
            f"{_mend(ask, found)}"
        )
    if ask.adapters:
        out.print(
            f"An adapter of rank {ask.rank} on every module is {found.adapter_bytes / 2**20:,.0f}"
            f" MiB; {found.most_slots:,} slots would fit. All {ask.adapters} take "
            f"{found.host / GIB:.2f} GiB of the host's memory."
        )
    out.print(
        f"At best {found.decode:,.0f} tokens/s generated by {ask.concurrency} requests at once,"
        f" and {found.prefill:,.0f} tokens/s read (a roofline; half of it is good)."
    )
    if hour is not None:
        price = hour / 3600 / found.decode * 1e6
        out.print(f"At {hour:g} usd an hour that is {price:.3f} usd/Mtok generated:")
        out.print(f"  replica_hour: {hour:g} usd\n  peak_tokens_per_second: {found.decode:.0f}")


def _mend(ask: "Ask", found: "Plan") -> str:
    """What would help, the least first."""
    if found.most_slots and found.most_slots < ask.slots:
        return f"With --slots {found.most_slots} it would; the rest are loaded when asked for."
    if found.most_requests:
        return f"With --concurrency {found.most_requests} it would."
    if ask.quantization in ("bf16", "fp16"):
        return "Try --quantization awq or fp8, or a larger card."
    return "Take a larger card, or --gpus 2."
