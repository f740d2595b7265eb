"""The configuration that the gateway is measured with: everything on, five candidates a route."""

from pathlib import Path

KEY_NAME = "bench"

ROUTES = {
    "support": "refund my order|where is my parcel|the lamp is broken|cancel the order",
    "contracts": "summarise this clause|is the lessee liable|draft a contract|review the deadline",
    "code": "fix this python function|why does this error happen|deploy the database",
    "travel": "book a hotel in the city|what is the weather there|ship it to this address",
    "email": "draft a polite email|answer this message|write a short reply",
    "general": "tell me something|explain this to me|what do you think",
}
MODELS = {"tiny": 0.1, "small": 0.25, "medium": 0.6, "large": 2.5, "huge": 15.0}

GATEWAY = """
server: {{listen: 127.0.0.1:8080}}
default_route: general
backends:
  mock:
    kind: openai
    url: http://127.0.0.1:{upstream}/v1
    api_key: sk-upstream
    models:
{models}
"""
MODEL = """
      {name}:
        id: mock
        price: {{input: {price} usd/Mtok, output: {dearer} usd/Mtok}}
        typical: {{first_token: 200 ms, tokens_per_second: 80, output_tokens: 50}}
"""
QUOTA = "requests: 100000000/min, tokens: 1000000M/min, concurrent: 1000000"
QUOTA += ", budget: {day: 1000000 usd, month: 10000000 usd}"
"""All limits that there are, and never reached."""

POLICY = """
name: balanced
waiting: {first_token: 0.002 usd/s, whole: 0.0005 usd/s}
limits: {cost: 0.05 usd, first_token_p95: 30 s, quality: 0.5}
switch_if_better_by: 5 %
explore: 2 %
"""


def write_configuration(
    home: Path, upstream: int, *, limits: bool = False, redis: int | None = None
) -> None:
    """Writes it below `home`, in front of the mock upstream at port `upstream`.

    With `limits` each key and each route has all of them, and those are shared through the Redis at
    port `redis` if it is given.
    """
    for folder in ("routes", "policies"):
        (home / folder).mkdir(parents=True)
    models = "".join(
        MODEL.format(name=name, price=price, dearer=price * 4) for name, price in MODELS.items()
    )
    file = GATEWAY.format(upstream=upstream, models=models)
    if limits:
        file += f"limits: {{every_key: {{{QUOTA}}}}}\n"
    if redis is not None:
        file += f"coordinator: redis://127.0.0.1:{redis}\n"
    (home / "gateway.yaml").write_text(file)
    (home / "policies/balanced.yaml").write_text(POLICY)
    for name, examples in ROUTES.items():
        candidates = "\n".join(
            f"  - {{target: mock/{model}, quality: {0.80 + 0.03 * place:.2f}}}"
            for place, model in enumerate(MODELS)
        )
        listed = "\n".join(f"    - {example}" for example in examples.split("|"))
        (home / f"routes/{name}.yaml").write_text(
            f"name: {name}\ndescription: Measured.\nvalue: 0.02 usd\n"
            f"match:\n  examples:\n{listed}\n"
            f"candidates:\n{candidates}\npolicy: balanced\n"
            + (f"limits: {{{QUOTA}}}\n" if limits else "")
        )
