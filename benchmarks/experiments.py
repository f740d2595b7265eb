"""Whether what experiments say is true: simulated where the truth is known.

    python -m benchmarks.experiments [--write] [--runs 1000]

Everything is seeded. With `--write` the figures go to docs/quality.md.
"""

import argparse
import math
from collections.abc import Callable

import msgspec
import numpy as np

from benchmarks.quality import write
from gateway.experiments.answers import answer
from gateway.experiments.bandit import Rewards, weights
from gateway.experiments.planning import answered_after, fixed_horizon, simulated
from gateway.experiments.progress import Progress, Scored
from gateway.experiments.rates import SRM_ALPHA, above, ratio_p
from gateway.experiments.slots import FEWEST, half_width
from gateway.experiments.stats import Contrasts, contrasts, intervals, refuted_at
from gateway.types.experiments import Asked, Experiment

ALPHA = 0.05
SEED = 20260101
UNITS = 5000
AT_ONCE = 2_000_000


class Rate(msgspec.Struct, frozen=True):
    """A share of runs, with the standard error of the simulation."""

    share: float
    runs: int

    @property
    def error(self) -> float:
        return math.sqrt(max(self.share * (1.0 - self.share), 0.25 / self.runs) / self.runs)

    def __str__(self) -> str:
        return f"{100 * self.share:.1f} % (± {100 * self.error:.1f})"


class Power(msgspec.Struct, frozen=True):
    """How an experiment with something to find goes: units until it is answered, and which share is
    answered within how many times a fixed horizon's number of units."""

    what: str
    fixed: int
    answered: Rate
    mean: float
    median: float
    by_fixed: Rate


class Bandit(msgspec.Struct, frozen=True):
    """Regret in dollars over so many requests, means of the runs and their standard errors."""

    what: str
    requests: int
    split: float
    split_error: float
    bandit: float
    bandit_error: float
    best_share: float


def _batches(runs: int, units: int) -> list[int]:
    size = max(1, min(runs, AT_ONCE // units))
    return [min(size, runs - start) for start in range(0, runs, size)]


def false_positives(rate: float, runs: int, units: int = UNITS, share: float = 0.5) -> Rate:
    """A/A: how many runs say "better" though nothing is, read after every unit."""
    rng = np.random.default_rng(SEED)
    wrong = 0
    for size in _batches(runs, units):
        seen = simulated(rng, rate, rate, share, (size, units))
        wrong += sum(after <= units for after in answered_after(seen, 0.0, ALPHA))
    return Rate(wrong / runs, runs)


def at_the_margin(rate: float, margin: float, runs: int, units: int = UNITS) -> Rate:
    """How many say "no worse by more than the margin" of an arm that is worse by just that."""
    rng = np.random.default_rng(SEED + 1)
    wrong = 0
    for size in _batches(runs, units):
        seen = simulated(rng, rate - margin, rate, 0.5, (size, units))
        wrong += sum(after <= units for after in answered_after(seen, -margin, ALPHA))
    return Rate(wrong / runs, runs)


def naive(rate: float, runs: int, units: int = UNITS) -> Rate:
    """A/A by a z-test that is read after every unit, which is what must not be done."""
    rng = np.random.default_rng(SEED + 2)
    wrong = 0
    n = np.arange(1, units + 1)
    for size in _batches(runs, units):
        seen = simulated(rng, rate, rate, 0.5, (size, units)).values
        mean = np.cumsum(seen, axis=-1) / n
        spread = np.cumsum(seen * seen, axis=-1) / n - mean * mean
        z = mean / np.sqrt(np.maximum(spread, 1e-9) / n)
        wrong += int((z[:, 99:] > 1.645).any(axis=-1).sum())
    return Rate(wrong / runs, runs)


def covered(rate: float, other: float, runs: int, units: int = 1000) -> Rate:
    """How many runs' intervals hold the truth at all of 20 looks."""
    rng = np.random.default_rng(SEED + 3)
    looks = np.linspace(units // 20, units, 20).astype(np.int64)
    right = 0
    for _ in range(runs):
        seen = simulated(rng, rate, other, 0.5, (1, units))
        one = Contrasts(seen.values[0], seen.least[0], seen.most[0])
        truth = rate - other
        right += all(low <= truth <= high for low, high in intervals(one, ALPHA, looks))
    return Rate(right / runs, runs)


def power(what: str, treated: float, control: float, margin: float, runs: int) -> Power:
    """Read after every unit, up to five times the units of a fixed horizon of 80 % power."""
    rng = np.random.default_rng(SEED + 4)
    fixed = fixed_horizon(treated, control, treated - control + margin, ALPHA)
    units = 5 * fixed
    after: list[int] = []
    for size in _batches(runs, units):
        seen = simulated(rng, treated, control, 0.5, (size, units))
        after += answered_after(seen, -margin, ALPHA)
    found = np.array(after)
    return Power(
        what,
        fixed,
        Rate(float((found <= units).mean()), runs),
        float(np.minimum(found, units).mean()),
        float(np.median(found)),
        Rate(float((found <= fixed).mean()), runs),
    )


def regret(
    what: str, right: list[float], cost: list[float], value: float, runs: int, requests: int = 4000
) -> Bandit:
    """What is lost against always asking the best arm; weights are worked out anew every 100
    requests, and what is known of a request comes 100 later."""
    worth = value * np.array(right) - np.array(cost)
    lost: list[float] = []
    shares: list[float] = []
    for run in range(runs):
        each, share = _one_bandit(
            np.random.default_rng(SEED + 5 + run), right, cost, value, requests
        )
        lost.append(each)
        shares.append(share)
    split = requests * float((worth.max() - worth).mean())
    spread = float(np.std(lost) / math.sqrt(runs))
    return Bandit(what, requests, split, 0.0, float(np.mean(lost)), spread, float(np.mean(shares)))


def _one_bandit(
    rng: np.random.Generator, right: list[float], cost: list[float], value: float, requests: int
) -> tuple[float, float]:
    worth = value * np.array(right) - np.array(cost)
    rewards = {str(arm): Rewards() for arm in range(len(right))}
    waiting: list[tuple[str, float]] = []
    lost = 0.0
    share = 0.0
    for _ in range(requests // 100):
        now = weights(rewards, rng)
        for arm, reward in waiting:
            rewards[arm] = rewards[arm].with_(reward)
        chosen = rng.choice(len(right), size=100, p=list(now.values()))
        lost += float((worth.max() - worth[chosen]).sum())
        share = float((chosen == worth.argmax()).mean())
        correct = rng.random(100) < np.array(right)[chosen]
        waiting = [
            (str(a), float(value * c - cost[a])) for a, c in zip(chosen, correct, strict=True)
        ]
    return lost, share


def adaptive_false_positives(rate: float, runs: int, units: int = 4000) -> Rate:
    """A/A under a bandit whose weights follow the data, read after every unit."""
    wrong = 0
    for run in range(runs):
        rng = np.random.default_rng(SEED + 6 + run)
        rewards = {"treated": Rewards(), "control": Rewards()}
        z, y, p = np.zeros(units, bool), np.zeros(units), np.zeros(units)
        for start in range(0, units, 100):
            share = weights(rewards, rng)["treated"]
            for index in range(start, start + 100):
                z[index], y[index], p[index] = rng.random() < share, rng.random() < rate, share
                arm = "treated" if z[index] else "control"
                rewards[arm] = rewards[arm].with_(float(y[index]))
        wrong += refuted_at(contrasts(z, y, p), 0.0, ALPHA) is not None
    return Rate(wrong / runs, runs)


class Best(msgspec.Struct, frozen=True):
    """Runs that ask which arm is best: how many say a wrong one, how many the right one, and after
    how many units those did, at the median."""

    wrong: Rate
    right: Rate
    median: float | None


def best_arm(
    rates: list[float], runs: int, units: int = 4000, *, bandit: bool = True, margin: float = 0.0
) -> Best:
    """By the code that is used, read after every unit; a bandit's weights follow the data. Right is
    an arm that is not worse than any other by more than the margin: without one none is, where
    several are equal."""
    arms = [chr(97 + place) for place in range(len(rates))]
    equal = dict.fromkeys(arms, 1.0 / len(arms))
    asked = Asked("", "", "right", no_worse=False, margin=margin, best=True)
    experiment = Experiment(
        "best", {arm: arm for arm in arms}, equal, 1.0, bandit=bandit, asked=asked
    )
    best = max(rates)
    fine = {a for a, rate in zip(arms, rates, strict=True) if rate > best - margin - 1e-9}
    if margin == 0.0 and len(fine) > 1:
        fine = set()
    wrong, after = 0, []
    for run in range(runs):
        rng = np.random.default_rng(SEED + 10 + run)
        progress = Progress(arms)
        for start in range(0, units, 100):
            rewards = {arm: each.rewards for arm, each in progress.arms.items()}
            shares = weights(rewards, rng) if bandit else equal
            chosen = rng.choice(len(arms), size=100, p=list(shares.values()))
            right = rng.random(100) < np.array(rates)[chosen]
            progress.scored(
                Scored(n, arms[arm], f"u{n}", shares[arms[arm]], float(yes), float(yes))
                for n, (arm, yes) in enumerate(zip(chosen, right, strict=True), start + 1)
            )
        found = answer(experiment, progress)
        if found is not None and found.winner in fine:
            after.append(found.at)
        elif found is not None:
            wrong += 1
    median = float(np.median(after)) if after else None
    return Best(Rate(wrong / runs, runs), Rate(len(after) / runs, runs), median)


def wrong_ratio(runs: int, share: float, units: int = 5000) -> Rate:
    """How many runs are said to have wrong shares, read every 50 units, if `share` is the true one
    of the arm that was declared half of the traffic."""
    rng = np.random.default_rng(SEED + 7)
    told = 0
    for _ in range(runs):
        first = np.cumsum(rng.random(units) < share)
        told += any(
            ratio_p({"a": int(first[n - 1]), "b": int(n - first[n - 1])}, {"a": 0.5, "b": 0.5})
            < SRM_ALPHA
            for n in range(50, units + 1, 50)
        )
    return Rate(told / runs, runs)


def false_guards(runs: int, limit: float = 0.01, units: int = 5000) -> Rate:
    """How many runs are stopped by a guard whose limit is just kept, read every 20 units."""
    rng = np.random.default_rng(SEED + 8)
    told = 0
    for _ in range(runs):
        bad = np.cumsum(rng.random(units) < limit)
        told += any(above(limit, int(bad[n - 1]), n) >= 1 / ALPHA for n in range(20, units + 1, 20))
    return Rate(told / runs, runs)


def slots_alike(runs: int, slots: int = 300) -> Rate:
    """How many runs' intervals of a ratio of times miss that it is 1, read after every slot."""
    rng = np.random.default_rng(SEED + 9)
    wrong = 0
    for _ in range(runs):
        treated = rng.random(slots) < 0.5
        seen = contrasts(treated, rng.normal(0.5, 0.4, slots), np.full(slots, 0.5)).values
        looks = (seen[:n] for n in range(FEWEST, slots + 1))
        wrong += any(abs(each.mean()) > half_width(each, ALPHA) for each in looks)
    return Rate(wrong / runs, runs)


def page(runs: int, say: Callable[[str], None]) -> str:
    """All of it as Markdown."""
    lines = [
        f"By `python -m benchmarks.experiments --write`: simulated and seeded, {runs:,} runs of"
        " each, read after every unit, at a confidence of 95 %; in brackets the simulation's"
        " standard error.",
        "",
        "| an experiment with nothing to find (5,000 units) | says so wrongly |",
        "|---|---|",
    ]
    say("nothing to find")
    for what, found in (
        ('A/A, both arms 50 % right: says "better"', false_positives(0.5, runs)),
        ('A/A, both arms 90 % right: says "better"', false_positives(0.9, runs)),
        ('A/A, both arms 98 % right: says "better"', false_positives(0.98, runs)),
        ("A/A, 90 %, one arm a tenth of the units", false_positives(0.9, runs, share=0.1)),
        ('worse by just the margin of 2 points: says "no worse"', at_the_margin(0.9, 0.02, runs)),
        ("A/A, 90 %, under a bandit's weights (4,000 units)", adaptive_false_positives(0.9, runs)),
        ("sample ratio, right shares (at 0.1 %)", wrong_ratio(runs, 0.5)),
        ("guard of 1 % errors, just kept", false_guards(runs)),
        ("switchback, 300 slots, equal times: says that they differ", slots_alike(runs)),
        ("for comparison: A/A by a z-test read all the time from unit 100 on", naive(0.9, runs)),
    ):
        lines.append(f"| {what} | {found} |")
    say("coverage")
    few = max(50, runs // 5)
    lines += [
        "",
        f"The interval held the truth at all of 20 looks in {covered(0.9, 0.85, few)} of {few} runs"
        f" (90 against 85 %) and {covered(0.97, 0.97, few)} (97 % each); promised are 95 %. A split"
        " of 55 to 45 where halves were declared is told within 5,000 units in"
        f" {wrong_ratio(few, 0.55)}.",
        "",
        "| an experiment with something to find | units of a z-test read once, power 80 % |"
        " answered by as many | answered by 5 times as many | mean units | median |",
        "|---|---|---|---|---|---|",
    ]
    for what, treated, control, margin in (
        ("better: 85 against 80 %", 0.85, 0.80, 0.0),
        ("better: 95 against 90 %", 0.95, 0.90, 0.0),
        ("better: 99 against 80 %", 0.99, 0.80, 0.0),
        ("no worse by 2 points: 95 % both", 0.95, 0.95, 0.02),
        ("no worse by 2 points: 90 against 89 %", 0.90, 0.89, 0.02),
    ):
        say(what)
        each = power(what, treated, control, margin, runs)
        lines.append(
            f"| {what} | {each.fixed:,} | {each.by_fixed} | {each.answered} |"
            f" {each.mean:,.0f} | {each.median:,.0f} |"
        )
    lines += [
        "",
        "Regret, in dollars over 4,000 requests, against always asking the best arm:",
        "",
        "| arms (share right, dollars a request; a right answer is worth $0.02) | equal split |"
        " bandit | the best arm's share at the end |",
        "|---|---|---|---|",
    ]
    for what, right, cost in (
        ("95 %, $0.004; 93 %, $0.0004", [0.95, 0.93], [0.004, 0.0004]),
        ("90 %; 80 %; 60 %, free", [0.9, 0.8, 0.6], [0.0, 0.0, 0.0]),
        ("90 %; 89 %, free", [0.9, 0.89], [0.0, 0.0]),
    ):
        say(what)
        one = regret(what, right, cost, 0.02, max(30, runs // 10))
        lines.append(
            f"| {what} | {one.split:.2f} | {one.bandit:.2f} (± {one.bandit_error:.2f}) |"
            f" {100 * one.best_share:.0f} % |"
        )
    lines += ["", *_best_arms(runs, say)]
    return "\n".join(lines)


def _best_arms(runs: int, say: Callable[[str], None]) -> list[str]:
    """The table of experiments that ask which arm is best."""
    lines = [
        "Which arm is best, read after every unit up to the 4,000th; a bandit starves the arms that"
        " it does not believe in, so that it earns more and knows later:",
        "",
        "| arms | shares | says a wrong one | says the right one | after units (median) |",
        "|---|---|---|---|---|",
    ]
    for what, rates, margin in (
        ("90 % each", [0.9, 0.9, 0.9], 0.0),
        ("90, 90 and 70 %", [0.9, 0.9, 0.7], 0.0),
        ("90, 80 and 70 %", [0.9, 0.8, 0.7], 0.0),
        ("90, 85, 85 and 80 %", [0.9, 0.85, 0.85, 0.8], 0.0),
        ("90, 90 and 70 %, within 3 points", [0.9, 0.9, 0.7], 0.03),
        ("90, 87 and 87 %, within 3 points", [0.9, 0.87, 0.87], 0.03),
    ):
        for shares, bandit in (("a bandit's", True), ("fixed", False)):
            say(f"the best of {what}, {shares} shares")
            one = best_arm(rates, runs, bandit=bandit, margin=margin)
            after = "–" if one.median is None else f"{one.median:,.0f}"
            right = "–" if margin == 0.0 and rates[0] == rates[1] else str(one.right)
            lines.append(f"| {what} | {shares} | {one.wrong} | {right} | {after} |")
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/quality.md")
    parser.add_argument("--runs", type=int, default=1000)
    asked = parser.parse_args()
    found = page(asked.runs, lambda what: print(f"… {what}", flush=True))
    print(found)
    if asked.write:
        write("experiments", found)


if __name__ == "__main__":
    main()
