"""How commands speak to a running gateway: its admin API, with a key that has the role."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from gateway.cli.opening import fail, listen_of, tell_problems, url_of
from gateway.errors import Problem

GatewayOption = Annotated[
    str | None,
    typer.Option(
        "--gateway",
        envvar="SWITCHBOARD_GATEWAY",
        metavar="URL",
        help="The running gateway; else where the files say that it listens.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="SWITCHBOARD_ADMIN_KEY",
        metavar="KEY",
        help="A key with a role: `switchboard keys create --name NAME --role operate` makes one.",
        show_envvar=True,
    ),
]

TIMEOUT_S = 300.0
"""A promotion waits for loads."""


def base_of(gateway: str | None, config: Path) -> str:
    """The running gateway's URL: as named, or where the files say that it listens."""
    return url_of(gateway or f"http://{listen_of(config)}").removesuffix("/v1")


def readiness(base: str) -> dict[str, Any] | None:
    """What a gateway says at `/ready`: all of it only while there is no key yet. None where none
    answers."""
    import httpx

    try:
        found = httpx.get(f"{base}/ready", timeout=5.0, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return None
    return found if isinstance(found, dict) and "ready" in found else None


def ask(
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    gateway: str | None,
    key: str | None,
    config: Path,
    as_json: bool = False,
) -> Any:
    """What the gateway answers; what it refuses is told in red, with exit code 1, and what is wrong
    with files `as_json` too."""
    import httpx

    base = base_of(gateway, config)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.request(
            method,
            f"{base}/admin/{path}",
            json={k: v for k, v in body.items() if v is not None} if body is not None else None,
            headers=headers,
            timeout=TIMEOUT_S,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        fail(
            f"no gateway answers at {base} ({type(error).__name__}); begin one with"
            " `switchboard serve`, or name it with --gateway URL"
        )
    try:
        found = answer.json()
    except ValueError:
        fail(f"{base} is no Switchboard: it answers {answer.status_code} {answer.text[:100]!r}")
    if answer.is_success:
        return found
    if answer.status_code == 422 and "problems" in found:
        tell_problems(msgspec.convert(found["problems"], list[Problem]), as_json=as_json)
    message = found.get("error", {}).get("message", answer.text[:300])
    if answer.status_code in (401, 403) and not key:
        message = f"{message} Give a key with a role by --key or SWITCHBOARD_ADMIN_KEY."
    return fail(message)
