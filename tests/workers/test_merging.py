"""The metrics of several workers as one page."""

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.metering.metrics import Metrics
from gateway.workers.merging import Families, added, merged, read
from tests.store.world import record


def page(requests: int, waiting: float = 0.0) -> str:
    metrics = Metrics(lambda: {"switchboard_log_waiting": waiting})
    for n in range(requests):
        metrics.saw(record(n))
    return metrics.page().decode()


def values(text: str, *kinds: str) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        if not kinds or family.type in kinds
        for sample in family.samples
    }


def test_one_worker_alone_has_its_own_sums() -> None:
    alone = page(3)
    own = values(alone, "counter", "histogram")
    together = values(merged({}, {0: read(alone)}))

    assert {name: together[name] for name in own} == own


def test_counters_and_histograms_are_summed_and_gauges_stand_for_each() -> None:
    text = merged({}, {0: read(page(3, waiting=7)), 1: read(page(4, waiting=8))})
    found = values(text)

    def total(name: str) -> float:
        return sum(value for sample, value in found.items() if sample.startswith(name))

    assert total("switchboard_requests_total") == 7
    assert total("gen_ai_server_request_duration_seconds_count") == 7
    assert found["switchboard_log_waiting[('worker', '0')]"] == 7
    assert found["switchboard_log_waiting[('worker', '1')]"] == 8
    assert text.count("# TYPE switchboard_requests_total") == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=8))
def test_no_counter_goes_backwards_whoever_ends(steps: list[tuple[int, bool]]) -> None:
    """Each step a worker counts more, and may then end and begin anew."""
    gone: Families = {}
    counted, before = 0, 0.0
    for more, ends in steps:
        counted += more
        text = merged(gone, {0: read(page(counted))})
        now = sum(v for name, v in values(text).items() if name.startswith("switchboard_requests"))
        assert now >= before
        before = now
        if ends:
            gone, counted = added(gone, read(page(counted))), 0


def test_what_only_an_ended_worker_has_counted_stays() -> None:
    found = values(merged(added({}, read(page(2))), {0: read(page(0))}))

    assert sum(v for name, v in found.items() if name.startswith("switchboard_requests")) == 2


def test_a_gauge_keeps_its_labels_and_odd_values() -> None:
    text = merged({}, {3: read('# HELP a b\n# TYPE a gauge\na{x="1 2"} NaN\n')})
    (sample,) = next(iter(text_string_to_metric_families(text))).samples

    assert sample.labels == {"worker": "3", "x": "1 2"}
    assert math.isnan(sample.value)
