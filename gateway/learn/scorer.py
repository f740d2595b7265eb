"""A version of a route's learned quality as decisions use it. Pure."""

from collections.abc import Sequence

import msgspec
import numpy as np

from gateway.classify.softmax import Floats
from gateway.learn.features import Features
from gateway.learn.model import Matrix, Model
from gateway.types.routes import TENANT

UNSURE = -1.0
"""Stands for P(right) where the route's own figure is better than a guess."""
NEAREST = 0.02
"""Of the kernel at the nearest landmark: about that of a text with no word in common. Below it
nothing like the prompt was learned from."""


class Scorer(msgspec.Struct, frozen=True):
    """Good for features of `kind` only. `targets` are those that it was learned of, and `columns`
    where each of the route's `candidates` stands among them; None where it was not learned."""

    version: str
    kind: str
    model: Model
    targets: tuple[str, ...]
    candidates: tuple[str, ...]
    columns: tuple[int | None, ...]

    def qualities(self, read: Features) -> tuple[float, ...]:
        """P(right) of each candidate on a prompt, or UNSURE; of all in one go."""
        found, nearest = self.model.judged(*read)
        if nearest < NEAREST:
            return (UNSURE,) * len(self.columns)
        said = found.tolist()
        return tuple([UNSURE if at is None else said[at] for at in self.columns])

    def table(self, vectors: Floats, figures: Floats) -> Matrix:
        """The same for many prompts, [prompts, candidates]."""
        said = self.model.scores(vectors, figures)
        found = np.full((len(said), len(self.columns)), UNSURE)
        for at, column in enumerate(self.columns):
            if column is not None:
                found[:, at] = said[:, column]
        found[self.model.nearest(vectors, figures) < NEAREST] = UNSURE
        return found

    def of(self, candidates: Sequence[str]) -> "Scorer":
        """The same for a route whose candidates may be others now."""
        if tuple(candidates) == self.candidates:
            return self
        return scorer(self.version, self.kind, self.model, self.targets, candidates)


def scorer(
    version: str, kind: str, model: Model, targets: Sequence[str], candidates: Sequence[str]
) -> Scorer:
    """For the candidates of a route as they are now."""
    place = {target: at for at, target in enumerate(targets)}
    columns = [None if TENANT in name else place.get(name) for name in candidates]
    return Scorer(version, kind, model, tuple(targets), tuple(candidates), tuple(columns))
