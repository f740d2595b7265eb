"""Whether what `gateway.yaml` declares can work: prices, adapters, the classifier's encoder.

Looks on the disk only for whether directories are there.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath

from gateway.config import compile
from gateway.config.models import (
    ENDPOINTS,
    AnyBackend,
    GatewayFile,
    HostedPart,
    LitellmPart,
    OpenaiPart,
    VllmPart,
)
from gateway.config.sheets import Sheet
from gateway.config.words import did_you_mean
from gateway.config.yaml import Path
from gateway.errors import Problem
from gateway.types import Target


def check_backends(
    sheet: Sheet[GatewayFile], file: GatewayFile, directory: FilePath
) -> Iterator[Problem]:
    for name, part in file.backends.items():
        path: Path = ("backends", name)
        if isinstance(part, OpenaiPart) and (part.url is None) == (part.replicas is None):
            yield sheet.problem(
                path, "needs either `url` or `replicas`", "write `url: https://host/v1`"
            )
        yield from _prices(sheet, path, part)
        if isinstance(part, VllmPart):
            yield from _adapters(sheet, path, part, directory)


def _prices(sheet: Sheet[GatewayFile], path: Path, part: AnyBackend) -> Iterator[Problem]:
    """A price that nobody knows would be decided on as 0."""
    for name, model in part.models.items():
        if compile.price(part, model) is not None:
            continue
        place = (*path, "models", name)
        if isinstance(part, LitellmPart):
            yield sheet.warning(
                place,
                "has no price: it is taken from litellm's map once its process has started",
                "declare `price` to decide on your own",
            )
        elif compile.is_internal(part):
            assert isinstance(part, HostedPart)
            missing = "replica_hour" if part.replica_hour is None else "peak_tokens_per_second"
            yield sheet.warning(
                place,
                "has no price: it is decided on as free",
                f"add `{missing}` to the backend, or declare `price`",
            )
        else:
            yield sheet.problem(
                place,
                "has no price",
                "add `price: {input: 0.25 usd/Mtok, output: 2 usd/Mtok}`, or `internal: true` to"
                " the backend if you host it",
            )


def _adapters(
    sheet: Sheet[GatewayFile], path: Path, part: VllmPart, directory: FilePath
) -> Iterator[Problem]:
    """vLLM knows an adapter by its name alone, among those of all its models and their ids."""
    taken: dict[str, Path] = {}
    for name, model in part.models.items():
        taken.setdefault(model.id, (*path, "models", name, "id"))
    store = compile.adapter_store(part, directory)[0]
    present = sorted(each.name for each in store.iterdir()) if store and store.is_dir() else []
    if store is not None and not store.is_dir():
        yield sheet.warning((*path, "adapter_store"), f"there is no directory {store}")
    for name, model in part.models.items():
        for adapter, declared in model.adapters.items():
            place = (*path, "models", name, "adapters", adapter)
            before = taken.setdefault(adapter, place)
            if before != place:
                yield sheet.problem(
                    place,
                    f"`{adapter}` is the name of something else in this backend already, on line"
                    f" {sheet.document.line(before)}",
                    "give the adapter another name",
                )
            if declared.mix is not None:
                yield sheet.problem(
                    (*place, "mix"), "mixing adapters is not supported yet", "give it a `source`"
                )
            elif declared.source is None:
                yield sheet.problem(place, "needs a `source`", f"write `source: {adapter}`")
            elif not _stays_inside(declared.source, part.adapter_store is not None):
                yield sheet.problem(
                    (*place, "source"),
                    f"`{declared.source}` leads out of the adapter store",
                    "write a path below it, without `..`",
                )
            elif store is not None and store.is_dir() and not (store / declared.source).is_dir():
                yield sheet.warning(
                    (*place, "source"),
                    f"there is no `{declared.source}` in {store}",
                    did_you_mean(declared.source, present),
                )


def _stays_inside(source: str, has_store: bool) -> bool:
    path = FilePath(source)
    return ".." not in path.parts and not (has_store and path.is_absolute())


def check_classifier(
    sheet: Sheet[GatewayFile],
    file: GatewayFile,
    directory: FilePath,
    targets: Mapping[str, Target],
) -> Iterator[Problem]:
    part = file.classifier
    given = [key for key in ("directory", "target") if getattr(part, key) is not None]
    if part.kind == "embedding" and len(given) != 1:
        yield sheet.problem(
            ("classifier",),
            "an embedding classifier needs an encoder: either `directory` or `target`",
            "write `directory: PATH` of a sentence-transformer",
        )
    if part.kind == "lexical" and given:
        yield sheet.warning(
            ("classifier", given[0]),
            "a lexical classifier has no encoder",
            "write `kind: embedding`, or leave it out",
        )
    if part.directory is not None and not (directory / part.directory).is_dir():
        place: Path = ("classifier", "directory")
        yield sheet.problem(place, f"there is no directory {directory / part.directory}")
    if part.target is not None:
        yield from _encoder(sheet, part.target, targets)


def _encoder(
    sheet: Sheet[GatewayFile], name: str, targets: Mapping[str, Target]
) -> Iterator[Problem]:
    place: Path = ("classifier", "target")
    target = targets.get(name)
    if target is None:
        yield sheet.problem(place, f"unknown target `{name}`", did_you_mean(name, targets))
    elif ENDPOINTS["embeddings"] not in target.capabilities.endpoints:
        yield sheet.problem(
            place,
            f"`{name}` does not serve embeddings",
            "add `capabilities: {endpoints: [embeddings]}` to the model if it does",
        )
