"""Prometheus metrics, by the OpenTelemetry `gen_ai` conventions where they have a name."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.types import Record

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""The buckets that the conventions advise for durations."""

OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)


class _Series:
    """The children of one (route, target, outcome), looked up once."""

    __slots__ = ("cost", "duration", "first", "input", "output", "overhead", "requests")

    def __init__(self, metrics: "Metrics", route: str, target: str, outcome: str) -> None:
        self.requests = metrics.requests.labels(route, target, outcome)
        self.input = metrics.tokens.labels(route, target, "input")
        self.output = metrics.tokens.labels(route, target, "output")
        self.cost = metrics.cost.labels(route, target)
        self.duration = metrics.duration.labels(route, target)
        self.first = metrics.first_token.labels(route, target)
        self.overhead = metrics.overhead


class Metrics:
    """Counts what happened; one registry of its own, so that two gateways can share a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        place = ["switchboard_route", "switchboard_target"]
        self.requests = Counter(
            "switchboard_requests",
            "Requests answered, by outcome.",
            [*place, "outcome"],
            registry=self.registry,
        )
        self.tokens = Counter(
            "gen_ai_client_token_usage",
            "Tokens, by type.",
            [*place, "gen_ai_token_type"],
            registry=self.registry,
        )
        self.cost = Counter("switchboard_cost_usd", "Dollars spent.", place, registry=self.registry)
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request parsed to the answer's end.",
            place,
            buckets=SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the upstream call to its first piece, streams only.",
            place,
            buckets=SECONDS,
            registry=self.registry,
        )
        self.overhead = Histogram(
            "switchboard_overhead_seconds",
            "Our own share of the time until the head is sent.",
            buckets=OVERHEAD,
            registry=self.registry,
        )
        self.open = Gauge("switchboard_open_requests", "Requests open.", registry=self.registry)
        self.lost = Counter(
            "switchboard_log_refused", "Rows that the log could not take.", registry=self.registry
        )
        self._series: dict[tuple[str, str, str], _Series] = {}

    def saw(self, record: Record) -> None:
        """Counts one finished request."""
        decision = record.decision
        route = decision.route if decision is not None else ""
        target = record.attempts[-1].target if record.attempts else ""
        key = (route, target, record.outcome)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(self, route, target, record.outcome)
        series.requests.inc()
        series.duration.observe(record.total_s)
        if not record.attempts:
            return
        series.input.inc(record.usage.input)
        series.output.inc(record.usage.output)
        series.cost.inc(record.cost)
        series.overhead.observe(record.overhead_s)
        if record.first_token_s is not None:
            series.first.observe(record.first_token_s)

    def page(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self.registry)
