"""How quality, money and time are traded, and what is done about failures."""

from typing import Literal

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """What a policy accepts of one request; None is no limit."""

    cost: float | None = None
    first_token_p95: float | None = None
    whole_p95: float | None = None
    quality: float | None = None


class Breaking(msgspec.Struct, frozen=True):
    """When a breaker opens: after so many `failures` in a row, or when at least `share` of the
    requests of the last `window_s` seconds have failed. It is left alone for `first_s`, then ever
    longer, up to `most_s`."""

    failures: int = 5
    share: float = 0.5
    window_s: float = 30.0
    first_s: float = 2.0
    most_s: float = 60.0


class Policy(msgspec.Struct, frozen=True):
    """How to trade off. `waiting_*` are dollars per second; `explore` and `switch_margin` shares.

    `value_weight` scales what a right answer is worth and `price_weight` what it costs, so that
    `cheapest`, `fastest` and `best` are policies in the same words. `on_cold` forces what is done
    where the best target's adapter is not loaded; None leaves it to the objective.

    Where a backend fails: `tries` candidates are asked at most, and `retries` times one is asked
    again, after `backoff_first_s` and then ever later, up to `backoff_most_s`; `again` says whether
    before another candidate, after all of them, or whichever is cheaper. The whole answer may take
    `total_s`, all of it together, and the first token of each stream tried `first_token_s`.
    For a share of at most `hedge` of the requests a second candidate is asked when the first is
    late. With `carry_on` a stream of text that breaks off is gone on with by another. Without
    `breaking` its failures open no breaker. With `learned` a candidate's quality is what was
    learned for prompts such as the one asked, where that is sure.
    """

    name: str
    waiting_first_token: float = 0.0
    waiting_whole: float = 0.0
    limits: Limits = Limits()
    if_none_fits: Literal["best", "refuse"] = "best"
    switch_margin: float = 0.0
    explore: float = 0.0
    value_weight: float = 1.0
    price_weight: float = 1.0
    on_cold: Literal["wait", "base", "external"] | None = None
    tries: int = 2
    retries: int = 1
    again: Literal["cheaper", "first", "last"] = "cheaper"
    backoff_first_s: float = 0.2
    backoff_most_s: float = 5.0
    total_s: float | None = None
    first_token_s: float | None = None
    hedge: float = 0.0
    carry_on: bool = False
    breaking: Breaking | None = Breaking()
    learned: bool = False
