"""How many CPU microseconds one decision takes: small configurations, and a large one.

    python benchmarks/decide.py [--json] [--seconds 1.0]

Measured is `Decider.decide` alone, building the whole Decision included, as process CPU time over
many calls: the best of several rounds, since anything else on the machine only adds. All figures
have first-token and cost limits, a switch margin and exploring, and live estimates of every target.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable

from gateway.policy.decide import Decider
from gateway.policy.live import Live
from gateway.types.backends import Capabilities, Price, Shaping, Target
from gateway.types.decisions import Question
from gateway.types.policies import Limits, Policy
from gateway.types.records import Usage
from gateway.types.requests import Caller, Needs
from gateway.types.routes import Candidate, Match, Route
from gateway.types.snapshot import Server, Snapshot

POLICY = Policy(
    "balanced",
    waiting_first_token=0.002,
    waiting_whole=0.0005,
    limits=Limits(cost=0.05, first_token_p95=30.0, quality=0.1),
    switch_margin=0.05,
    explore=0.02,
)


def main() -> None:
    """Print the figures, as a table or with `--json` as one object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds for each figure")
    options = parser.parse_args()
    figures = {
        "five_us": measure(small(replicas=1), "work-0", options.seconds),
        "five_two_replicas_us": measure(small(replicas=2), "work-0", options.seconds),
        "thousand_adapters_us": measure(large(), "work-7", options.seconds),
    }
    figures["live_us"] = measure_live(small(replicas=1), options.seconds)
    figures["ratio"] = figures["thousand_adapters_us"] / figures["five_us"]
    if options.json:
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
        return
    print(f"5 candidates, one replica each     {figures['five_us']:7.2f} µs")
    print(f"5 candidates, two replicas each    {figures['five_two_replicas_us']:7.2f} µs")
    print(f"5 of 1,000 adapters, 100 routes    {figures['thousand_adapters_us']:7.2f} µs")
    print(f"live estimates, for one stream     {figures['live_us']:7.2f} µs")
    print(f"large over small                   {figures['ratio']:7.2f}")


def measure(snapshot: Snapshot, route: str, seconds: float) -> float:
    """CPU microseconds of one decision on `route`."""
    live = Live()
    for target in snapshot.targets.values():
        for replica in target.replicas:
            flight = live.started(target, replica, route, 0.0)
            live.first_token(flight, 0.3)
            live.finished(flight, 3.0, Usage(input=400, output=150))
    decider = Decider(snapshot)
    question = Question(route, POLICY.name, Needs(input_tokens=400, max_output=500), Caller())
    live.chose(question, decider.decide(question, live, 0.5))

    def call() -> None:
        decider.decide(question, live, 0.5)

    return 1e6 * best(call, seconds)


def measure_live(snapshot: Snapshot, seconds: float) -> float:
    """CPU microseconds that one stream costs the live estimates, from its start to its end."""
    live, target = Live(), next(iter(snapshot.targets.values()))
    usage = Usage(input=400, cached_input=100, output=150)
    clock = itertools.count()

    def call() -> None:
        now = next(clock) * 0.01
        live.advance(now)
        flight = live.started(target, target.replicas[0], "work-0", now)
        live.first_token(flight, now + 0.3)
        live.finished(flight, now + 3.0, usage)

    return 1e6 * best(call, seconds)


def best(call: Callable[[], None], seconds: float, round_size: int = 2000) -> float:
    """CPU seconds of one call: the best round of as many as fit into `seconds`."""
    fastest = float("inf")
    until = time.process_time() + seconds
    while time.process_time() < until:
        began = time.process_time()
        for _ in range(round_size):
            call()
        fastest = min(fastest, (time.process_time() - began) / round_size)
    return fastest


def small(replicas: int) -> Snapshot:
    """One route with five candidates."""
    return compiled([target(f"local/model-{i}", replicas) for i in range(5)], routes=1)


def large() -> Snapshot:
    """1,000 adapters, and 100 routes of five candidates with 100 examples each."""
    adapters = [target(f"local/qwen+adapter-{i}", 1) for i in range(1000)]
    return compiled(adapters, routes=100, examples=100)


def compiled(targets: list[Target], *, routes: int, examples: int = 0) -> Snapshot:
    """A snapshot in which route i uses five targets, beginning with number 5 i."""
    named = {}
    for i in range(routes):
        chosen = [targets[(5 * i + j) % len(targets)] for j in range(5)]
        named[f"work-{i}"] = Route(
            name=f"work-{i}",
            description="",
            value=0.02,
            internal=True,
            match=Match(examples=tuple(f"example {j} of route {i}" for j in range(examples))),
            candidates=tuple(Candidate(t.name, 0.8 + 0.03 * j) for j, t in enumerate(chosen)),
            policy=POLICY.name,
        )
    return Snapshot(
        hash="benchmark",
        server=Server(),
        default_route="work-0",
        aliases={},
        routes=named,
        policies={POLICY.name: POLICY},
        targets={target.name: target for target in targets},
        backends={},
    )


def target(name: str, replicas: int) -> Target:
    """A self-hosted target with a context length, prices and `replicas` replicas."""
    model, plus, adapter = name.partition("/")[2].partition("+")
    return Target(
        name=name,
        backend="local",
        model=model,
        adapter=adapter if plus else None,
        served=name,
        internal=True,
        price=Price(1e-7, 5e-8, 4e-7),
        capabilities=Capabilities(context=32_768),
        shaping=Shaping(),
        replicas=tuple(f"http://gpu-{i}:8000" for i in range(replicas)),
    )


if __name__ == "__main__":
    main()
