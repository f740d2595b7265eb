"""Prometheus metrics, by the OpenTelemetry `gen_ai` conventions where they have a name.

A request adds to plain numbers; they become Prometheus' text only when somebody reads the page.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.types.records import Record

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""The buckets that the conventions advise for durations."""

OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)
GAUGES = {
    "switchboard_log_waiting": "Rows that are neither in the store nor on disk yet.",
    "switchboard_log_spooled_bytes": "What waits on disk for the store, all workers' together.",
    "switchboard_store_away": "Whether the store is away: rows wait, and commands are refused.",
    "switchboard_breakers_open": "Breakers that keep requests from a target at a replica.",
}
PLACE = ("switchboard_route", "switchboard_target")


class Histogram:
    """Counts of observations up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One more observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' buckets: how many observations are at most each bound."""
        total, buckets = 0, []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets


class Series:
    """What happened at one (route, target)."""

    __slots__ = ("cost", "duration", "first_token", "input", "outcomes", "output", "overhead")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.input = 0
        self.output = 0
        self.cost = 0.0
        self.duration = Histogram(SECONDS)
        self.first_token = Histogram(SECONDS)
        self.overhead = Histogram(OVERHEAD)


class Metrics(Collector):
    """Counts what happened, in a registry of its own: two gateways can share a process.

    `configuration` says which revision is served, by number and hash, and how many were refused;
    `shifts` how often a target's quality has changed on a route, `trainings` how often a route was
    trained anew, by what came of it.
    """

    def __init__(self, gauges: Callable[[], Mapping[str, float]] = dict) -> None:
        """`gauges` tells what is so now, by names of `GAUGES`."""
        self.lost = 0
        self._gauges = gauges
        self.configuration: Callable[[], tuple[int, str, int]] = lambda: (0, "", 0)
        self.shifts: Mapping[tuple[str, str], int] = {}
        self.trainings: Mapping[tuple[str, str], int] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self._said: dict[tuple[str, str], int] = {}
        self._series: dict[tuple[str, str], Series] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def saw(self, record: Record) -> None:
        """Counts one finished request."""
        attempts = record.attempts
        key = (
            record.decision.route if record.decision is not None else "",
            record.composed or (attempts[-1].target if attempts else ""),
        )
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series()
        outcome = record.outcome
        series.outcomes[outcome] = series.outcomes.get(outcome, 0) + 1
        series.duration.observe(record.total_s)
        if attempts:
            usage = record.usage
            series.input += usage.input
            series.output += usage.output
            series.cost += record.cost
            series.overhead.observe(record.overhead_s)
            if record.first_token_s is not None:
                series.first_token.observe(record.first_token_s)

    def refused(self, whose: str, limit: str) -> None:
        """Counts a request that was refused for a limit of a key, a tenant or a route."""
        self._refused[whose, limit] = self._refused.get((whose, limit), 0) + 1

    def told(self, route: str, metric: str) -> None:
        """Counts one thing that was said of an answer."""
        self._said[route, metric] = self._said.get((route, metric), 0) + 1

    def add(self, collector: Collector) -> None:
        """Somebody else's metrics, on the same page."""
        self._registry.register(collector)

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """What the registry asks for when the page is read."""
        requests = CounterMetricFamily(
            "switchboard_requests", "Requests, by outcome.", labels=[*PLACE, "outcome"]
        )
        tokens = CounterMetricFamily(
            "gen_ai_client_token_usage", "Tokens, by type.", labels=[*PLACE, "gen_ai_token_type"]
        )
        cost = CounterMetricFamily("switchboard_cost_usd", "Dollars spent.", labels=PLACE)
        duration = HistogramMetricFamily(
            "gen_ai_server_request_duration_seconds",
            "From the request parsed to the answer's end.",
            labels=PLACE,
        )
        first = HistogramMetricFamily(
            "gen_ai_server_time_to_first_token_seconds",
            "From the upstream call to its first piece; streams only.",
            labels=PLACE,
        )
        overhead = HistogramMetricFamily(
            "switchboard_overhead_seconds",
            "Our own share of the time until the head is sent.",
            labels=PLACE,
        )
        for key, series in list(self._series.items()):
            for outcome, count in series.outcomes.items():
                requests.add_metric([*key, outcome], count)
            tokens.add_metric([*key, "input"], series.input)
            tokens.add_metric([*key, "output"], series.output)
            cost.add_metric(key, series.cost)
            for family, histogram in (
                (duration, series.duration),
                (first, series.first_token),
                (overhead, series.overhead),
            ):
                family.add_metric(key, histogram.cumulative(), histogram.sum)
        seq, hash, wrong = self.configuration()
        served = InfoMetricFamily(
            "switchboard_config_revision", "The revision of the configuration that is served."
        )
        served.add_metric([], {"hash": hash, "number": str(seq)})
        errors = CounterMetricFamily(
            "switchboard_config_errors", "Configurations that were refused: the old served on."
        )
        errors.add_metric([], wrong)
        refused = CounterMetricFamily(
            "switchboard_limit_refusals",
            "Requests refused for a limit, by whose it is and which.",
            labels=["whose", "limit"],
        )
        for (whose, limit), count in list(self._refused.items()):
            refused.add_metric([whose, limit], count)
        said = CounterMetricFamily(
            "switchboard_feedback",
            "What was said of answers, by the route and its metric.",
            labels=["route", "metric"],
        )
        for (route, metric), count in list(self._said.items()):
            said.add_metric([route, metric], count)
        shifted = CounterMetricFamily(
            "switchboard_quality_changed",
            "Times that a target's share of right answers has surely changed on a route.",
            labels=["route", "target"],
        )
        for (route, target), count in list(self.shifts.items()):
            shifted.add_metric([route, target], count)
        trained = CounterMetricFamily(
            "switchboard_trainings",
            "Times that a route's quality was learned anew by its schedule, by what came of it.",
            labels=["route", "outcome"],
        )
        for (route, outcome), count in list(self.trainings.items()):
            trained.add_metric([route, outcome], count)
        lost = CounterMetricFamily("switchboard_log_refused", "Rows that the log could not take.")
        lost.add_metric([], self.lost)
        now = [
            GaugeMetricFamily(name, GAUGES[name], value=value)
            for name, value in self._gauges().items()
        ]
        return [
            requests,
            tokens,
            cost,
            duration,
            first,
            overhead,
            served,
            errors,
            lost,
            refused,
            said,
            shifted,
            trained,
            *now,
        ]
