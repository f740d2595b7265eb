"""Small configurations for the tests of choosing, and questions about them."""

from collections.abc import Iterable

from hypothesis import HealthCheck, settings

from gateway.types.backends import Capabilities, Price, Shaping, Target
from gateway.types.decisions import Question
from gateway.types.policies import Limits, Policy
from gateway.types.requests import Caller, Needs
from gateway.types.routes import Candidate, Match, Route
from gateway.types.snapshot import Server, Snapshot

laws = settings(
    max_examples=60,
    deadline=None,  # how busy the machine is says nothing about the law
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

ROUTE = "work"
POLICY = "balanced"


def target(
    name: str,
    *,
    internal: bool = False,
    input_price: float = 1e-6,
    cached_price: float | None = None,
    output_price: float = 4e-6,
    capabilities: Capabilities | None = None,
    replicas: tuple[str, ...] | None = None,
    first_token_s: float = 0.5,
    tokens_per_s: float = 50.0,
    output_tokens: float = 200.0,
) -> Target:
    """A target of that name (`backend/model[+adapter]`), external unless said otherwise."""
    backend, _, rest = name.partition("/")
    model, plus, adapter = rest.partition("+")
    return Target(
        name=name,
        backend=backend,
        model=model,
        adapter=adapter if plus else None,
        served=adapter if plus else model,
        internal=internal,
        price=Price(
            input_price, input_price if cached_price is None else cached_price, output_price
        ),
        capabilities=capabilities or Capabilities(),
        shaping=Shaping(),
        replicas=(f"http://{backend}",) if replicas is None else replicas,
        first_token_s=first_token_s,
        tokens_per_s=tokens_per_s,
        output_tokens=output_tokens,
    )


def policy(
    *,
    waiting_first_token: float = 0.002,
    waiting_whole: float = 0.0005,
    limits: Limits | None = None,
    refuse: bool = False,
    switch_margin: float = 0.0,
    explore: float = 0.0,
    value_weight: float = 1.0,
    price_weight: float = 1.0,
) -> Policy:
    """The policy of these tests."""
    return Policy(
        name=POLICY,
        waiting_first_token=waiting_first_token,
        waiting_whole=waiting_whole,
        limits=limits or Limits(),
        if_none_fits="refuse" if refuse else "best",
        switch_margin=switch_margin,
        explore=explore,
        value_weight=value_weight,
        price_weight=price_weight,
    )


def route(
    candidates: Iterable[tuple[str, float]],
    *,
    name: str = ROUTE,
    value: float = 0.02,
    internal: bool = False,
    match: Match | None = None,
) -> Route:
    """A route whose candidates are (target, quality)."""
    return Route(
        name=name,
        description="",
        value=value,
        internal=internal,
        match=match or Match(),
        candidates=tuple(Candidate(target, quality) for target, quality in candidates),
        policy=POLICY,
    )


def snapshot(
    routes: Iterable[Route],
    targets: Iterable[Target] = (),
    policy: Policy | None = None,
    aliases: dict[str, str] | None = None,
) -> Snapshot:
    """A compiled configuration; the first route is the default."""
    named = {route.name: route for route in routes}
    return Snapshot(
        hash="h",
        server=Server(),
        default_route=next(iter(named)),
        aliases=aliases or {},
        routes=named,
        policies={POLICY: policy or Policy(POLICY)},
        targets={target.name: target for target in targets},
        backends={},
    )


def question(
    *, needs: Needs | None = None, tenant: str | None = None, only: str | None = None
) -> Question:
    """A question on the route of these tests."""
    return Question(
        route=ROUTE,
        policy=POLICY,
        needs=needs or Needs(input_tokens=100),
        caller=Caller(tenant=tenant),
        only=only,
    )
