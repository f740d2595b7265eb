"""`gateway.yaml` as it is written, whatever may be wrong with it: what says where the store is, and
where the gateway listens, must be found of a configuration that cannot run too."""

from collections.abc import Mapping
from pathlib import Path

from gateway.config import yaml
from gateway.config.overlay import GATEWAY, merged, overlay_name
from gateway.errors import Problem


def written(
    directory: Path, env: Mapping[str, str], environment: str | None
) -> tuple[yaml.Document | None, list[Problem]]:
    """The file under its environment's overlay, and what cannot be read of them.

    Raises OSError and UnicodeDecodeError for a file that is not there, or no text.
    """
    document, problems = _read(directory / GATEWAY, env)
    if document is None or environment is None:
        return document, problems
    overlay = directory / overlay_name(environment)
    if not overlay.is_file():
        return document, problems
    over, more = _read(overlay, env)
    return merged(document, over) if over is not None else document, [*problems, *more]


def _read(file: Path, env: Mapping[str, str]) -> tuple[yaml.Document | None, list[Problem]]:
    return yaml.read(file.read_text("utf-8-sig"), str(file), env)
