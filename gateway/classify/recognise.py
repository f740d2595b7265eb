"""Which route a request belongs to, in order: named, header rule, keyword or pattern, classifier.

What is read is the user's last turn, and of every turn the certain rules come first. A turn that
says too little by itself ("shorter, please") is not confident, and then the turn before it is read,
and so on: so a conversation keeps its route until the user turns to something else, with nothing to
remember between requests.
"""

import asyncio
import difflib

import msgspec

from gateway.classify.base import CLASSIFIED_CHARS, Classifier, Computed, Prediction
from gateway.classify.encoder import EncoderError, TextRefused
from gateway.classify.rules import Rules, ruled_by
from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.types.requests import Recognition, Request, Source
from gateway.types.snapshot import Snapshot

LIKENED_CHARS = 128
"""Characters beyond which no known name is looked for that an unknown one may have meant."""


class Recognised(msgspec.Struct, frozen=True):
    """The route, the policy to choose by, and the single target that was named, if one was.
    `computed` is what the classifier has worked out of the last turn, where it was asked."""

    recognition: Recognition
    policy: str
    only: str | None = None
    computed: Computed | None = None


class Recogniser:
    """Recognises requests under one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        classifier: Classifier | None,
        before: "Recogniser | None" = None,
    ) -> None:
        """What of `before` is for the same rules is taken over."""
        self._snapshot = snapshot
        same = before is not None and ruled_by(before._snapshot) == ruled_by(snapshot)
        self._rules: Rules = before._rules if before is not None and same else Rules(snapshot)
        self._classifier = classifier

    async def recognise(self, request: Request) -> Recognised:
        """The request's route; raises NotFound for an unknown model, Forbidden for the key."""
        only, recognition = self._named(request)
        computed = None
        if recognition is None:
            recognition, computed = await self._learned(request)
        route = self._snapshot.routes[recognition.route]
        allowed = request.caller.routes
        if allowed is not None and route.name not in allowed:
            raise Forbidden(
                f"The key may not use route '{route.name}'; it may use: "
                f"{', '.join(sorted(allowed))}.",
                param="model",
                code="route_not_allowed",
            )
        return Recognised(recognition, self._policy(request, route.policy), only, computed)

    def _named(self, request: Request) -> tuple[str | None, Recognition | None]:
        """What the request says by itself: a header, a target, a route, or a certain rule."""
        override = None
        if request.route is not None:
            override = self._overridden(request, request.route)
        model = self._snapshot.aliases.get(request.model, request.model)
        if model in self._snapshot.targets:
            if not request.caller.direct:
                raise Forbidden(
                    f"The key may not name a target ('{model}') itself.",
                    param="model",
                    code="target_not_allowed",
                )
            # A target belongs to no route: whose rules hold for it the header says.
            route = self._snapshot.default_route if override is None else override.route
            return model, Recognition(route, "named", detail=model)
        if override is not None:
            return None, override
        if model != "auto" and model not in self._snapshot.routes:
            raise self._unknown(request.model)
        text = request.turns[0] if request.turns else ""
        return None, self._rules.recognise(request.model, request.headers, text)

    def _overridden(self, request: Request, route: str) -> Recognition:
        if not request.caller.direct:
            raise Forbidden("The key may not override the route.", code="override_not_allowed")
        if route not in self._snapshot.routes:
            raise BadRequest(
                f"x-switchboard-route: there is no route '{route}'"
                f"{_suggestion(route, list(self._snapshot.routes))}",
                code="route_not_found",
            )
        return Recognition(route, "header", detail="x-switchboard-route")

    def _policy(self, request: Request, declared: str) -> str:
        if request.policy is None:
            return declared
        if not request.caller.direct:
            raise Forbidden("The key may not override the policy.", code="override_not_allowed")
        if request.policy not in self._snapshot.policies:
            raise BadRequest(
                f"x-switchboard-policy: there is no policy '{request.policy}'"
                f"{_suggestion(request.policy, list(self._snapshot.policies))}",
                code="policy_not_found",
            )
        return request.policy

    async def _learned(self, request: Request) -> tuple[Recognition, Computed | None]:
        """By the latest turn that a rule or the classifier is sure of; else the default route.
        And what the classifier has worked out of the last one."""
        unsure: Recognition | None = None
        computed: Computed | None = None
        for place, turn in enumerate(request.turns):
            # The last turn has been read for rules already.
            certain = self._rules.recognise("auto", request.headers, turn) if place else None
            if certain is not None:
                return Recognition(certain.route, "conversation", 1.0, certain.detail), computed
            found, worked_out = await self._classified(turn)
            computed = computed if place else worked_out
            if found.by == "classifier":
                by: Source = "conversation" if place else "classifier"
                return Recognition(found.route, by, found.confidence), computed
            unsure = unsure or found
        return unsure or self._default("there is no text to classify"), computed

    async def _classified(self, text: str) -> tuple[Recognition, Computed | None]:
        """By the classifier, or the default route where it is not sure, is away, or is none."""
        classifier = self._classifier
        if classifier is None:
            return self._default("no route has examples to classify by"), None
        try:
            prediction = await self._predict(classifier, text)
        except TextRefused:
            return self._default("the encoder does not take the text"), None
        except EncoderError:
            # Said in the log, with the reason, when it went away.
            return self._default("the encoder is away"), None
        confidence, threshold = prediction.confidence, classifier.threshold
        if confidence >= threshold:
            return Recognition(prediction.label, "classifier", confidence), prediction.computed
        why = f"{prediction.label} at {confidence:.2f} is below {threshold:.2f}"
        return self._default(why, confidence), prediction.computed

    def _default(self, why: str, confidence: float = 0.0) -> Recognition:
        return Recognition(self._snapshot.default_route, "default", confidence, why)

    async def _predict(self, classifier: Classifier, text: str) -> Prediction:
        text = text[:CLASSIFIED_CHARS]
        if classifier.blocking:
            return await asyncio.to_thread(classifier.predict, text)
        return classifier.predict(text)

    def _unknown(self, model: str) -> NotFound:
        known = [
            "auto",
            *self._snapshot.aliases,
            *self._snapshot.routes,
            *self._snapshot.targets,
        ]
        return NotFound(
            f"The model '{model}' does not exist{_suggestion(model, known)} "
            "GET /v1/models lists what there is.",
            param="model",
            code="model_not_found",
        )


def _suggestion(word: str, known: list[str]) -> str:
    """The end of the sentence: what may be meant, or a full stop."""
    if len(word) > LIKENED_CHARS:
        return "."
    close = difflib.get_close_matches(word, known, 1)
    return f"; did you mean '{close[0]}'?" if close else "."
