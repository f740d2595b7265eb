"""Eval runs as they are learned from: from their results to the store, and back."""

import hashlib
from collections.abc import Collection, Sequence

import msgspec

from gateway.evals.runs import Result, Run, named
from gateway.learn.features import FeatureKind
from gateway.learn.rows import Answer, prompt_of
from gateway.store.evaluated import EvalBook, Evaluated, Prompt
from gateway.types.routes import Keep


def answers_of(run: Run, results: Sequence[Result]) -> list[Answer]:
    """The answers of which the run says that they are right or wrong."""
    return [
        Answer(each.input, each.target, float(each.right), each.cost_usd, named(run))
        for each in results
        if each.right is not None and each.error is None
    ]


def keep_run(
    book: EvalBook, run: Run, results: Sequence[Result], keep: Keep, kind: FeatureKind
) -> bool:
    """Keeps what is learned from a run of a route: texts where the route keeps texts, else
    features of that `kind`, and nothing where it keeps nothing. Whether that was news. Raises
    StoreError or EncoderError."""
    if run.route is None or keep == "none":
        return False
    told: dict[str, list[Answer]] = {}
    for answer in answers_of(run, results):
        told.setdefault(answer.text, []).append(answer)
    packed: list[bytes | None] = [None] * len(told)
    if keep == "features":
        packed = [kind.packed(each) for each in kind.of_all(list(told))]
    prompts = [
        Prompt(
            prompt_of(text),
            text if keep == "text" else None,
            features,
            tuple((each.target, each.right, each.cost) for each in answers),
        )
        for (text, answers), features in zip(told.items(), packed, strict=True)
    ]
    digest = hashlib.sha256(msgspec.msgpack.encode((run.route, prompts))).hexdigest()
    return book.add(Evaluated(named(run), run.route, digest, run.finished or run.started), prompts)


def kept_answers(
    book: EvalBook, route: str, known: Collection[str], kind: FeatureKind
) -> tuple[list[Answer], tuple[str, ...], int]:
    """What the store knows of a route by runs that are not `known`, which these are, and of how
    many prompts the features are of another `kind`. Raises StoreError."""
    found, runs, others = [], [], 0
    for run, prompts in book.read(route):
        if run in known:
            continue
        runs.append(run)
        for each in prompts:
            read = None if each.features is None else kind.unpacked(each.features)
            if each.text is None and read is None:
                others += 1
                continue
            found += [
                Answer(each.text or "", target, right, cost, run, each.prompt, read)
                for target, right, cost in each.answers
            ]
    return found, tuple(runs), others
