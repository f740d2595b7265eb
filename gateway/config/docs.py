"""`docs/configuration.md`, written from the models. `python -m gateway.config.docs [--check]`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config.files.gateway import GatewayFile
from gateway.config.files.policies import PolicyFile
from gateway.config.files.routes import RouteFile
from gateway.config.files.suites import SuiteFile
from gateway.config.problems import in_flow, members
from gateway.config.schema import default_text

PAGE = Path("docs/configuration.md")

_INTRODUCTION = """\
# Configuration

<!-- Written by `python -m gateway.config.docs` from the models in gateway/config/files. -->

A configuration is a directory:

| file | what it says |
|---|---|
| `gateway.yaml` | every backend, model, adapter and price, each declared once |
| `routes/*.yaml` | one kind of work each: how to recognise it, what it is worth, who could do it |
| `policies/*.yaml` | one way each to trade quality, money and time |
| `evals/*.yaml` | cases with known answers, and how an answer is scored |
| `prompts/` or any other folder | system prompts that routes name |

`switchboard init DIR` writes one to start from. `switchboard validate --config DIR` says everything
that is wrong with one, with file, line, key and mend, and exits with 1 if it cannot run, or a suite
cannot; `--json` is for programs. `switchboard schema` writes JSON Schemas: the first line of each
file, `# yaml-language-server: $schema=…`, lets an editor complete and check it while you type.

## How files are read

- **YAML 1.2**, core schema: `no`, `on` and `yes` are words, `0o17` is an octal number, `1_000` is a
  word. A key that is set twice is an error, a second document in a file too. Anchors and aliases
  work; merge keys (`<<`) are not part of 1.2.
- **`${NAME}`** is the environment variable of that name, in any place and any style;
  `${NAME:-text}` has a default for one that is unset or empty; `$${` is `${` itself. What a
  variable holds is put in after parsing: it is text and never YAML, and numbers and switches are
  read from that text. A variable without default that is not set is an error; one whose value is
  wrong where it stands is told as `${NAME}`, without the value. In flow style editors want
  `"${NAME}"` quoted; Switchboard does not.
- **Names** of ours (backends, models, adapters, routes, policies) are lower-case letters, digits,
  `.` and `-`. A **target** is `backend/model` or `backend/model+adapter`. A candidate may be
  `backend/model+{key.tenant}`: the adapter that is named as the tenant of the caller's key.
- **Paths** are seen from the configuration's directory.

| quantity | written as | units |
|---|---|---|
| money | `0.01 usd` | `usd` |
| price of tokens | `0.25 usd/Mtok` | `usd/Mtok`, `usd/ktok`, `usd/tok` |
| cost of waiting | `0.002 usd/s` | `usd/s`, `usd/ms` |
| time | `1.5 s` | `s`, `ms`, `m` (minutes), `h`, `d` (days) |
| share | `5 %` or `0.05` | `%`, or a number from 0 to 1 |
| difference of shares | `2 points` | `points`, `point` |
| rate | `600/min` or `100k/min` | `/s`, `/min`, `/h`, after a whole number, also in `k` or `M` |
| size | `32 MiB` | `B`, `kB`, `MB`, `GB`, `KiB`, `MiB`, `GiB` |
"""
_FILES = (
    ("gateway.yaml", GatewayFile),
    ("routes/*.yaml", RouteFile),
    ("policies/*.yaml", PolicyFile),
    ("evals/*.yaml", SuiteFile),
)


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for name, model in _FILES:
        parts.append(f"## {name}\n\n{_doc(model)}\n\n{_table(model)}")
        for heading, part in _inner(model):
            parts.append(f"### {heading}\n\n{_doc(part)}\n\n{_table(part)}")
    return "\n".join(parts).rstrip() + "\n"


def _doc(model: type[BaseModel]) -> str:
    text = " ".join((model.__doc__ or "").split())
    return text.partition(": ")[2].capitalize() if text.startswith("`") else text


def _inner(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The mappings below a model, each under the keys that lead to it; each model only once."""
    seen: set[type[BaseModel]] = set()
    waiting = [(path, "", part) for path, part in _below(model, "")]
    while waiting:
        path, of_kind, part = waiting.pop(0)
        if part in seen:
            continue
        seen.add(part)
        of_kind = _of_kind(part) or of_kind
        yield f"`{path}`{of_kind}", part
        waiting = [*((inner, of_kind, each) for inner, each in _below(part, f"{path}.")), *waiting]


def _of_kind(part: type[BaseModel]) -> str:
    kind = part.model_fields.get("kind")
    kinds = get_args(kind.annotation) if kind is not None else ()
    return f" of kind `{kinds[0]}`" if len(kinds) == 1 else ""


def _below(model: type[BaseModel], above: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        for suffix, part in _models(field.annotation):
            yield f"{above}{field.alias or name}{suffix}", part


def _models(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    for member in members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            yield "", member
        elif get_origin(member) is dict:
            yield from ((f".NAME{rest}", part) for rest, part in _models(get_args(member)[1]))
        elif get_origin(member) is list:
            yield from ((f"[]{rest}", part) for rest, part in _models(get_args(member)[0]))


def _table(model: type[BaseModel]) -> str:
    rows = [_row(field.alias or name, field) for name, field in model.model_fields.items()]
    return "\n".join(["| key | what | default | example |", "|---|---|---|---|", *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    default = default_text(field)
    said = "**needed**" if field.is_required() else f"`{default}`" if default else ""
    examples = field.examples or list(get_args(field.annotation))
    example = f"`{name}: {in_flow(examples[0])}`" if examples else ""
    return f"| `{name}` | {field.description} | {said} | {example} |"


def main() -> int:
    """The command line of this module."""
    return written_or_checked(PAGE, page(), "gateway.config.docs", __doc__)


def written_or_checked(path: Path, text: str, module: str, description: str | None) -> int:
    """The command line of a module that writes a page: the exit code, 1 for one that is old."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if not current")
    if not parser.parse_args().check:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
        print(f"wrote {path}")
        return 0
    current = path.is_file() and path.read_text("utf-8") == text
    if not current:
        print(f"{path} is not current; write it with: python -m {module}")
    return 0 if current else 1


if __name__ == "__main__":
    sys.exit(main())
