"""Learning from what was said of answers, where the truth is known."""

import random

import msgspec
import numpy as np
import pytest

from gateway.classify.softmax import Floats
from gateway.learn.kinds import WORDS
from gateway.learn.model import fit
from gateway.learn.rows import Answer, Logged, Rows, rows_of, tilted
from gateway.learn.training import calibration_error, gained, net, train, versus

TARGETS = ("cheap", "dear")
VALUE = 0.01
COST = {"cheap": 0.0005, "dear": 0.002}
KINDS = {
    # what it says, P(right) of both, P(the cheap one is chosen), P(spoken of)
    "sum": ("add up the figures of invoice", (0.9, 0.85), 0.9, 0.2),
    "proof": ("prove the theorem about lattices", (0.2, 0.8), 0.1, 0.7),
    "verse": ("write a verse about autumn", (0.6, 0.65), 0.5, 0.4),
}
TRUTH = np.array([each[1] for each in KINDS.values()])
SHARES = TRUTH.mean(axis=0)
TOLD = 2 / 3
"""Share of requests whose words tell their kind."""


def worth(quality: Floats) -> float:
    """Dollars a request of who goes by `quality` [kinds, targets]."""
    cost = np.array(list(COST.values()))
    chosen = (VALUE * quality - cost).argmax(axis=1)
    return float((VALUE * TRUTH - cost)[np.arange(len(TRUTH)), chosen].mean())


GAIN = TOLD * (worth(TRUTH) - worth(np.tile(SHARES, (len(TRUTH), 1))))
"""Of knowing the kinds, where words tell them, over knowing the shares."""


def requests(n: int, seed: int, *, all_spoken_of: bool = False) -> list[Logged]:
    """Requests as a policy serves them that sends most of each kind one way; of some kinds people
    speak more often. Of one in three, the words do not tell the kind: the policy knows it all the
    same, by a header for example, and people speak of all of them alike."""
    draw = random.Random(seed)
    found = []
    for at in range(n):
        says, chances, cheap, spoken = KINDS[draw.choice(list(KINDS))]
        if draw.random() >= TOLD:
            says, spoken = "please have a look at this", 0.4
        target = "cheap" if draw.random() < cheap else "dear"
        right = float(draw.random() < chances[TARGETS.index(target)])
        heard = all_spoken_of or draw.random() < spoken
        found.append(
            Logged(
                f"req_{seed}_{at}",
                WORDS.of(f"{says} {draw.randint(0, 99)}"),
                target,
                right if heard else None,
                COST[target],
                {"cheap": cheap, "dear": 1.0 - cheap},
                1.0 + at,
            )
        )
    return found


def unweighted(rows: Rows) -> Rows:
    return msgspec.structs.replace(rows, known=(rows.known > 0.0).astype(float))


def learned(rows: Rows) -> tuple[Floats, Floats]:
    """What the model says of all prompts, by the mean, and of each kind [kinds, targets]."""
    model = fit(rows.vectors, rows.plain, rows.right, rows.known)
    read = [WORDS.of(f"{says} 50") for says, *_ in KINDS.values()]
    return (
        model.scores(rows.vectors, rows.plain).mean(axis=0),
        np.array([model.score(*each) for each in read]),
    )


def test_weights_take_out_what_feedback_leaves_out() -> None:
    weighted, plain = [], []
    for seed in range(5):
        rows = rows_of([], TARGETS, WORDS, requests(2000, seed))
        weighted.append(learned(rows)[0] - SHARES)
        plain.append(learned(unweighted(rows))[0] - SHARES)
    bias, other = np.abs(np.mean(weighted, axis=0)), np.abs(np.mean(plain, axis=0))
    assert other.max() > 0.04
    assert bias.max() < 0.5 * other.max()
    assert bias.max() < 0.03


def test_what_is_said_is_near_the_truth_and_what_it_is_worth_is_told() -> None:
    logged = requests(1200, 11)
    rows = rows_of([], TARGETS, WORDS, logged, {"are too recent": 7})
    trained = train(rows, VALUE)
    report, heard = trained.report, trained.report.heard
    kinds = {cheap: chances for _, chances, cheap, _ in KINDS.values()}
    truth = np.array([kinds[each.propensities["cheap"]] for each in logged])
    assert calibration_error(trained.predicted, truth, np.ones(truth.shape)) < 0.06
    shares = np.abs(trained.model.shares - truth).mean()
    assert np.abs(trained.predicted - truth).mean() < shares
    assert report.brier < report.brier_shares
    assert report.gain_low < GAIN < report.gain_high
    assert heard is not None
    assert (heard.requests, heard.left_out) == (1200, {"are too recent": 7})
    assert heard.labelled == sum(each.right is not None for each in logged)
    assert heard.cap == pytest.approx(1200**0.5)
    assert max(heard.unsupported) == 0.0
    assert max(heard.effective) < heard.labelled / 2


def test_the_interval_of_the_gain_has_the_truth_as_often_as_it_says() -> None:
    """Of two routers whose worth is known: one knows the kinds, the other the shares."""
    says = {WORDS.of(f"{each[0]} {n}")[0].tobytes(): kind
            for kind, each in enumerate(KINDS.values()) for n in range(100)}  # fmt: skip
    cost = np.array(list(COST.values()))
    within, found, times = 0, [], 60
    for seed in range(100, 100 + times):
        logged = requests(500, seed, all_spoken_of=True)
        rows = rows_of([], TARGETS, WORDS, logged)
        kind = np.array([says.get(each.read[0].tobytes(), 3) for each in logged])
        knows = np.vstack([TRUTH, SHARES])[kind]
        shares = np.tile(SHARES, (len(kind), 1))
        expected = np.tile(cost, (len(kind), 1))
        wrong = np.clip(knows + np.array([0.1, -0.1]), 0.0, 1.0)  # what sets it right is the log
        lead = net(rows, knows, wrong, expected, VALUE) - net(rows, shares, wrong, expected, VALUE)
        gain, low, high = gained(lead, rows.stands)
        found.append(gain)
        within += low <= GAIN <= high
    assert np.mean(found) == pytest.approx(GAIN, abs=1.5e-4)
    assert within >= 0.88 * times


def test_both_sources_are_learned_from_and_each_target_needs_its_own_answers() -> None:
    says = [f"{each[0]} {n}" for each in KINDS.values() for n in range(40)]
    tried = [Answer(text, "cheap", 1.0, 0.001) for text in says]
    tried += [Answer(text, "rare", 1.0, 0.001) for text in says[:30]]
    rows = rows_of(tried, ["cheap", "dear", "rare"], WORDS, requests(600, 5))
    assert rows.targets == TARGETS
    assert rows.few == {"rare": 30}
    report = train(rows, VALUE).report
    assert (report.prompts, report.left_out, report.few) == (600, 120, {"rare": 30})
    with pytest.raises(ValueError, match="at least 50 of cheap, 30 of rare; 50 of each of two"):
        train(rows_of(tried, ["cheap", "dear", "rare"], WORDS), VALUE)


def test_one_version_is_compared_with_another_on_requests_that_came_since() -> None:
    rows = rows_of([], TARGETS, WORDS, requests(800, 7))
    new = train(rows, VALUE)
    ignorant = msgspec.structs.replace(new.model, weights=np.zeros_like(new.model.weights))
    swapped = msgspec.structs.replace(
        ignorant, shares=ignorant.shares[::-1], weights=ignorant.weights
    )
    found = versus(rows, new, swapped, TARGETS[::-1], (), 300.0)
    assert found is not None
    assert found.prompts == 500
    assert found == versus(rows, new, ignorant, TARGETS, (), 300.0)
    assert versus(rows, new, ignorant, ("cheap",), (), 300.0) is None
    assert versus(rows, new, ignorant, TARGETS, (), 790.0) is None


def test_features_are_kept_whole_in_few_bytes() -> None:
    for text in ("", "add up the figures of invoice 7\n" * 10, "a" * 5000, "\ud83d half"):
        read = WORDS.of(text)
        kept = WORDS.packed(read)
        again = WORDS.unpacked(kept)
        assert again is not None
        assert all(np.array_equal(*each) for each in zip(read, again, strict=True))
        assert len(kept) <= 33 + 3 * 256
    assert (
        WORDS.unpacked(b"")
        is WORDS.unpacked(b"\x01" + kept[1:])
        is WORDS.unpacked(kept[:-1])
        is None
    )


def test_how_far_praise_and_blame_could_lead_astray_is_told() -> None:
    """Right answers are spoken of twice as often as wrong ones: the low end is the truth."""
    draw, read = random.Random(9), WORDS.of("one and the same")
    found = []
    for at in range(10_000):
        target = draw.choice(TARGETS)
        right = draw.random() < SHARES[TARGETS.index(target)]
        told = draw.random() < (0.4 if right else 0.2)
        found.append(
            Logged(
                f"req_{at}", read, target,
                float(right) if told else None, 0.001, dict.fromkeys(TARGETS, 0.5), 1.0 + at,
            )
        )  # fmt: skip
    heard = rows_of([], TARGETS, WORDS, found).heard
    assert heard is not None
    assert heard.low == pytest.approx(SHARES, abs=0.035)
    for low, right, high, truth in zip(heard.low, heard.right, heard.high, SHARES, strict=True):
        assert low < truth + 0.035 < right < high


def test_the_more_is_spoken_of_the_less_can_be_astray() -> None:
    right = np.array([0.8])
    for spoken, low, high in ((0.0, 2 / 3, 8 / 9), (0.95, 0.76, 0.81), (1.0, 0.8, 0.8)):
        share = np.array([spoken])
        assert tilted(right, share, 2.0) == pytest.approx([low], abs=1e-9)
        assert tilted(right, share, 0.5) == pytest.approx([high], abs=1e-9)
