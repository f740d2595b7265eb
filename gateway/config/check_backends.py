"""Whether what `gateway.yaml` declares can work: prices, adapters, the classifier's encoder.

Looks on the disk only for whether directories are there.
"""

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path as FilePath

from gateway.config.compile_backends import adapter_store, is_internal, price
from gateway.config.files.backends import AnyBackend, HostedPart, LitellmPart, OpenaiPart, VllmPart
from gateway.config.files.gateway import GatewayFile
from gateway.config.files.models import ENDPOINTS, AdapterPart, VersionPart, VllmModelPart
from gateway.config.sheets import Sheet
from gateway.config.words import did_you_mean
from gateway.config.yaml import Path
from gateway.errors import Problem
from gateway.types.backends import Target

REMOTE = ("s3", "hf", "https", "http")
"""The schemes of sources that are fetched over the network."""


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
            yield from _servers(sheet, path, part)
            yield from _adapters(sheet, path, part, directory)


def _servers(sheet: Sheet[GatewayFile], path: Path, part: VllmPart) -> Iterator[Problem]:
    """Each model needs servers; those that share GPUs need one each at every GPU."""
    if not part.replicas and not any(model.replicas for model in part.models.values()):
        yield sheet.problem(
            (*path, "replicas"), "is empty", "for example `replicas: [http://gpu-1:8000]`"
        )
        return
    for name, model in part.models.items():
        if not part.replicas and not model.replicas:
            yield sheet.problem(
                (*path, "models", name),
                "is served nowhere",
                "add `replicas: [http://127.0.0.1:8000]` to the backend, or to the model",
            )
    if part.turns is None:
        return
    counts = {name: len(model.replicas) for name, model in part.models.items()}
    most = max(counts.values())
    for name, count in counts.items():
        if count != most or not count:
            yield sheet.problem(
                (*path, "models", name),
                f"has {count} servers of its own, and others have {most}: models that take turns"
                " have one each at every GPU",
                "write as many `replicas` as there are GPUs, in the same order for each model",
            )
    if len(part.models) < 2:
        yield sheet.problem(
            (*path, "turns"), "needs two models at least", "add the other, or leave `turns` out"
        )
    seen: dict[str, str] = {}
    for name, model in part.models.items():
        for index, url in enumerate(model.replicas):
            place = (*path, "models", name, "replicas", index)
            if url.startswith("dns://"):
                yield sheet.problem(
                    place, "is a name: which server shares which GPU is unknown", "write addresses"
                )
            elif seen.setdefault(url, name) != name:
                yield sheet.problem(
                    place,
                    f"serves `{seen[url]}` already",
                    "give each model a server of its own",
                )


def _prices(sheet: Sheet[GatewayFile], path: Path, part: AnyBackend) -> Iterator[Problem]:
    """A price that nobody knows would be decided on as 0."""
    for name, model in part.models.items():
        if price(part, model) is not None:
            continue
        place = (*path, "models", name)
        if isinstance(part, LitellmPart):
            yield sheet.warning(
                place,
                "has no price: it is taken from litellm's map once its process has started",
                "declare `price` to decide on your own",
            )
        elif is_internal(part):
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
    for index, serve in enumerate(part.serve):
        if serve.model not in part.models:
            yield sheet.problem(
                (*path, "serve", index, "model"),
                f"unknown model `{serve.model}` of this backend",
                did_you_mean(serve.model, part.models),
            )
    store = adapter_store(part, directory)[0]
    if store is not None and not store.is_dir():
        yield sheet.warning((*path, "adapter_store"), f"there is no directory {store}")
    for name, model in part.models.items():
        place: Path = (*path, "models", name)
        if model.config is not None and not (directory / model.config).exists():
            yield sheet.problem((*place, "config"), f"there is no {directory / model.config}")
        for adapter, declared in model.adapters.items():
            at = (*place, "adapters", adapter)
            before = taken.setdefault(adapter, at)
            if before != at:
                yield sheet.problem(
                    at,
                    f"`{adapter}` is the name of something else in this backend already, on line"
                    f" {sheet.document.line(before)}",
                    "give the adapter another name",
                )
            yield from _versions(sheet, at, adapter, declared)
            for where, version in _written_versions(at, declared):
                yield from _source(sheet, where, version, store)
                yield from _mix(sheet, where, version, model, adapter)
        yield from _circles(sheet, place, model)


def _versions(
    sheet: Sheet[GatewayFile], at: Path, adapter: str, declared: AdapterPart
) -> Iterator[Problem]:
    given = [key for key in ("source", "mix", "versions") if getattr(declared, key) is not None]
    if not given:
        yield sheet.problem(at, "needs a `source`", f"write `source: {adapter}`")
    elif len(given) > 1:
        yield sheet.problem(
            (*at, given[1]),
            f"has a `{given[0]}` already",
            f"leave one out; to have several, write them under `versions`: `v1: {{{given[0]}: …}}`",
        )


def _written_versions(at: Path, declared: AdapterPart) -> Iterator[tuple[Path, VersionPart]]:
    """Every version with the place where it stands."""
    if declared.versions is None:
        yield at, declared
        return
    for name, version in declared.versions.items():
        where = (*at, "versions", name)
        yield where, VersionPart(source=version) if isinstance(version, str) else version


def _source(
    sheet: Sheet[GatewayFile], where: Path, version: VersionPart, store: FilePath | None
) -> Iterator[Problem]:
    source = version.source
    if "versions" in where and (source is None) == (version.mix is None):
        yield sheet.problem(where, "needs either a `source` or a `mix`")
    if version.mix is None and version.rank is not None:
        yield sheet.problem((*where, "rank"), "only a mix has a rank to declare", "leave it out")
    if source is None:
        if version.sha256 is not None:
            yield sheet.problem((*where, "sha256"), "goes with a `source`", "leave it out")
        return
    place = (*where, "source") if _is_mapping(sheet, where) else where
    scheme, colon, _ = source.partition("://")
    if colon:
        if scheme not in REMOTE:
            yield sheet.problem(
                place,
                f"`{scheme}://` is no source that can be fetched",
                f"write a path, or one of {', '.join(f'`{each}://`' for each in REMOTE)}",
            )
    elif not _stays_inside(source, store is not None):
        yield sheet.problem(
            place,
            f"`{source}` leads out of the adapter store",
            "write a path below it, without `..`",
        )
    elif store is not None and store.is_dir() and not (store / source).is_dir():
        present = sorted(each.name for each in store.iterdir() if each.is_dir())
        yield sheet.warning(
            place, f"there is no `{source}` in {store}", did_you_mean(source, present)
        )


def _stays_inside(source: str, has_store: bool) -> bool:
    path = FilePath(source)
    return ".." not in path.parts and not (has_store and path.is_absolute())


def _is_mapping(sheet: Sheet[GatewayFile], where: Path) -> bool:
    """Whether what stands there is written out, and not just a source."""
    value: object = sheet.document.data
    for key in where:
        value = value[key] if isinstance(value, Mapping) else None
    return isinstance(value, Mapping)


def _mix(
    sheet: Sheet[GatewayFile],
    where: Path,
    version: VersionPart,
    model: VllmModelPart,
    adapter: str,
) -> Iterator[Problem]:
    """Each part of a mix is one set of files: what a mix is must not change behind its back."""
    for part in version.mix or ():
        name, _, number = part.partition("@")
        declared = model.adapters.get(name)
        if declared is None:
            others = [each for each in model.adapters if each != adapter]
            yield sheet.problem(
                (*where, "mix", part),
                f"unknown adapter `{name}` of this model",
                did_you_mean(name, others),
            )
        elif number not in (declared.versions or ("",)):
            first = next(iter(declared.versions)) if declared.versions else None
            yield sheet.problem(
                (*where, "mix", part),
                f"`{name}` has no version `{number}`" if number else f"`{name}` has versions",
                f"write `{name}@{first}`" if first is not None else f"write `{name}`",
            )


def _circles(sheet: Sheet[GatewayFile], place: Path, model: VllmModelPart) -> Iterator[Problem]:
    """A mix that is, by way of others, part of itself could never be made."""
    parts = {
        f"{name}@{where[-1]}" if declared.versions else name: (where, list(version.mix or ()))
        for name, declared in model.adapters.items()
        for where, version in _written_versions((*place, "adapters", name), declared)
    }
    graph = TopologicalSorter({name: needs for name, (_, needs) in parts.items()})
    try:
        graph.prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        yield sheet.problem(
            (*parts[circle[0]][0], "mix"),
            f"is part of itself: {' → '.join(reversed(circle))}",
            "mix adapters that have a `source`",
        )


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
