"""Admission on the metrics page: read from the entrances when somebody asks."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.admission.entrances import Entrances
from gateway.admission.pace import UNBOUND

PLACE = ("switchboard_backend", "switchboard_replica")


class AdmissionMetrics(Collector):
    """What is under way and waits at each replica, and who was refused, by reason."""

    def __init__(self, entrances: Entrances, shed: Callable[[], int]) -> None:
        """`shed` tells how many requests were turned away unread."""
        self._entrances = entrances
        self._shed = shed

    def collect(self) -> Iterable[Metric]:
        """What the registry asks for when the page is read."""
        running = GaugeMetricFamily(
            "switchboard_admission_running", "Requests under way.", labels=PLACE
        )
        limit = GaugeMetricFamily(
            "switchboard_admission_limit", "How many may be, where there is a bound.", labels=PLACE
        )
        waiting = GaugeMetricFamily(
            "switchboard_admission_waiting", "Requests that wait to be sent.", labels=PLACE
        )
        waited = SummaryMetricFamily(
            "switchboard_admission_waited_seconds",
            "How long those waited that had to.",
            labels=PLACE,
        )
        refused = CounterMetricFamily(
            "switchboard_admission_refused",
            "Requests that a replica had no room for, by reason; another may have taken them.",
            labels=[*PLACE, "reason"],
        )
        for backend, replica, entrance in self._entrances:
            place = [backend, replica]
            running.add_metric(place, entrance.running)
            waiting.add_metric(place, entrance.waiting)
            if entrance.limit != UNBOUND:
                limit.add_metric(place, entrance.limit)
            waited.add_metric(place, entrance.admitted, entrance.waited_s)
            for reason, count in entrance.refused.items():
                refused.add_metric([*place, reason], count)
        shed = CounterMetricFamily(
            "switchboard_shed", "Requests turned away unread, as the gateway itself was late."
        )
        shed.add_metric([], self._shed())
        return [running, limit, waiting, waited, refused, shed]
