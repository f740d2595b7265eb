"""From a request to the answer that OpenAI's API would give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from gateway.standin import chat, embed, reading, responses
from gateway.standin.answer import Answer, Stream, Whole, error, refuse
from gateway.standin.behaviour import Asked, Behaviour, Reply, tokens_of
from gateway.standin.chat import Cut, Made
from gateway.standin.engine import Engine
from gateway.standin.wire import Seen

Body = Mapping[str, Any]

ANY = "*"
"""The name under which a behaviour serves every model that is not named."""

KEPT = 10_000
"""How many answers are remembered for `previous_response_id` and the stored objects."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, how it is to be given, its usage, and what it was about: the last user's text."""

    answer: Answer
    behaviour: Behaviour
    prompt_tokens: int = 0
    output_tokens: int = 0
    inference: bool = False
    model: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """What was asked and answered once; the bodies are made from it again."""

    made: Made
    cuts: tuple[Cut, ...]
    prompt: int
    body: Body
    turns: tuple[Body, ...]


class Api:
    """Models and what was stored.

    `lenient` answers as a mock made from the API's schema does, which SDKs' own tests are written
    for: any id is found, odd parameters are accepted, and embeddings are floats whatever is asked.
    """

    def __init__(
        self,
        models: Mapping[str, Behaviour],
        *,
        lenient: bool,
        engine: Engine | None,
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.models = dict(models)
        self._lenient = lenient
        self._engine = engine
        self._now = now
        self._new_id = new_id
        self._started = int(now())
        self._chats: dict[str, Kept] = {}
        self._responses: dict[str, Kept] = {}
        self._plain = Behaviour()

    def answer(self, seen: Seen) -> Answered:
        """The answer; Refused for an error. The path is one below `/v1`."""
        path = seen.path.removeprefix("/v1/").rstrip("/")
        makers = {
            "chat/completions": self._chat,
            "completions": self._completion,
            "embeddings": self._embeddings,
            "responses": self._response,
        }
        if self._engine is not None and path == "embeddings":
            raise self._no_such_path(seen)
        if seen.method == "POST" and path in makers:
            return makers[path](reading.json_object(seen.body))
        stored = self._stored(seen.method, path, seen)
        if stored is not None:
            return Answered(stored, self._plain)
        if path in makers:
            raise refuse(405, f"Not allowed to {seen.method} on {seen.path}.")
        raise self._no_such_path(seen)

    def _no_such_path(self, seen: Seen) -> Exception:
        return refuse(404, f"Invalid URL ({seen.method} {seen.path})")

    # -------------------------------------------------------- making

    def _chat(self, body: Body) -> Answered:
        behaviour, model = self._model(body)
        reading.check(body, "messages", behaviour, lenient=self._lenient)
        turns = reading.turns(body, "chat/completions")
        kept = self._made("chat/completions", "chatcmpl-", body, behaviour, model, turns)
        if body.get("store"):
            _keep(self._chats, kept)
        if body.get("stream"):
            events = chat.chunks(kept.made, kept.cuts, kept.prompt, body)
            return _answered(Stream(events), behaviour, kept)
        whole = chat.completion(kept.made, kept.cuts, kept.prompt, body)
        return _answered(Whole(whole, tokens=_tokens(kept)), behaviour, kept)

    def _completion(self, body: Body) -> Answered:
        behaviour, model = self._model(body)
        reading.check(body, "prompt", behaviour, lenient=self._lenient)
        texts = reading.prompts(body["prompt"])
        cuts = []
        for text in texts:
            for _ in range(reading.choices(body)):
                asked = Asked("completions", model, text, body)
                reply = reading.replied(asked, behaviour, ())
                made = chat.cut(reply, reading.limit(body, "completions"), reading.stops(body))
                before = (text,) if body.get("echo") else ()
                cuts.append(Cut(made.reply, (*before, *made.tokens), made.finish))
        prompt = sum(len(tokens_of(text)) for text in texts)
        reading.within_context(behaviour, prompt)
        kept = Kept(self._stamp("cmpl-", model), tuple(cuts), prompt, body, ())
        if body.get("stream"):
            events = chat.text_chunks(kept.made, cuts, prompt, body)
            return _answered(Stream(events), behaviour, kept)
        whole = chat.text_completion(kept.made, cuts, prompt, body)
        return _answered(Whole(whole, tokens=_tokens(kept)), behaviour, kept)

    def _embeddings(self, body: Body) -> Answered:
        behaviour, model = self._model(body)
        reading.check(body, "input", behaviour, lenient=self._lenient)
        texts = reading.prompts(body["input"])
        tokens = sum(len(tokens_of(text)) for text in texts)
        if self._lenient:
            body = {**body, "encoding_format": "float"}
        whole = embed.embeddings(model, texts, body, behaviour.dimensions, tokens)
        return Answered(Whole(whole, tokens=1), behaviour, tokens, 0, inference=True)

    def _response(self, body: Body) -> Answered:
        behaviour, model = self._model(body)
        reading.check(body, None, behaviour, lenient=self._lenient)
        turns = [*self._earlier(body), *reading.turns(body, "responses")]
        kept = self._made("responses", "resp_", body, behaviour, model, turns)
        if body.get("store", True):
            _keep(self._responses, kept)
        if body.get("stream"):
            events = responses.events(kept.made, kept.cuts[0], kept.prompt, body)
            return _answered(Stream(events), behaviour, kept)
        whole = responses.response(kept.made, kept.cuts[0], kept.prompt, body)
        return _answered(Whole(whole, tokens=_tokens(kept)), behaviour, kept)

    def _earlier(self, body: Body) -> list[Body]:
        previous = body.get("previous_response_id")
        if previous is None:
            return []
        kept = self._responses.get(previous)
        if kept is not None:
            said = {"role": "assistant", "content": "".join(kept.cuts[0].tokens)}
            return [*kept.turns, said]
        if self._lenient:
            return []
        raise refuse(
            400,
            f"Previous response with id '{previous}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )

    def _made(
        self,
        endpoint: str,
        prefix: str,
        body: Body,
        behaviour: Behaviour,
        model: str,
        turns: list[Body],
    ) -> Kept:
        prompt = reading.prompt_tokens(turns, body)
        reading.within_context(behaviour, prompt)
        questions, said = reading.broken_off(turns) if behaviour.goes_on else (turns, "")
        asked = Asked(endpoint, model, reading.last_text(questions), body)
        reply = reading.replied(asked, behaviour, questions)
        if said:
            reply = msgspec.structs.replace(reply, text=reply.text.removeprefix(said))
        made = chat.cut(reply, reading.limit(body, endpoint), reading.stops(body))
        cuts = (made,) * reading.choices(body)
        stamp = self._stamp(prefix, model, len(reply.tool_calls))
        return Kept(stamp, cuts, prompt, body, tuple(turns))

    def _stamp(self, prefix: str, model: str, calls: int = 0) -> Made:
        ids = tuple(f"call_{self._new_id()}" for _ in range(calls))
        return Made(prefix + self._new_id(), int(self._now()), model, "fp_standin", ids)

    def _model(self, body: Body) -> tuple[Behaviour, str]:
        """The behaviour of the model asked for, and the name that the answer gives it.

        An adapter `name@version` behaves as `name` where nothing is said of that version.
        """
        name = body.get("model")
        engine = self._engine
        if engine is not None:
            base = self.models.get(engine.vllm.base, self._plain)
            if not name:
                return base, engine.vllm.base
            if name == engine.vllm.base or name in engine.adapters:
                whatever_version = self.models.get(name.partition("@")[0], base)
                return self.models.get(name, whatever_version), name
            raise refuse(404, f"The model `{name}` does not exist.", param="model")
        if not name and not self._lenient:
            raise refuse(400, "you must provide a model parameter")
        found = self.models.get(name or ANY) or self.models.get(ANY)
        if found is None:
            raise _no_such_model(name)
        return found, name or "gpt-5"

    # -------------------------------------------------------- what is listed and stored

    def listed(self) -> list[dict[str, Any]]:
        """The models as `/v1/models` lists them."""
        if self._engine is not None:
            return self._engine.models()
        return [self._entry(name) for name in self.models if name != ANY]

    def _entry(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "standin"}

    def _stored(self, method: str, path: str, seen: Seen) -> Whole | Stream | None:
        match path.split("/", 1), method:
            case ["models"], "GET":
                return Whole({"object": "list", "data": self.listed()})
            case ["models", name], "GET" | "DELETE":
                return self._one_model(unquote(name), method)
            case ["responses", rest], _:
                return self._one_response(rest, method, seen)
            case ["chat", rest], _ if rest.startswith("completions"):
                return self._one_chat(rest.removeprefix("completions").strip("/"), method, seen)
        return None

    def _one_model(self, name: str, method: str) -> Whole:
        entry = next((model for model in self.listed() if model["id"] == name), None)
        if entry is None and ANY not in self.models:
            raise _no_such_model(name)
        if method == "GET":
            return Whole(entry or self._entry(name))
        if entry is not None:
            return error(403, f"You may not delete the model '{name}'.", code="forbidden")
        return Whole({"id": name, "object": "model", "deleted": True})

    def _one_response(self, rest: str, method: str, seen: Seen) -> Whole | Stream | None:
        id, _, action = rest.partition("/")
        if method == "POST" and not action:
            return self._without_answer(id, reading.json_object(seen.body))
        kept = self._find(self._responses, id, "Response")
        whole = responses.response(kept.made, kept.cuts[0], kept.prompt, kept.body)
        match method, action:
            case "GET", "" if _query(seen, "stream") == "true":
                events = responses.events(kept.made, kept.cuts[0], kept.prompt, kept.body)
                return Stream(events)
            case "GET", "":
                return Whole(whole)
            case "GET", "input_items":
                return Whole(responses.input_items(kept.body, id))
            case "POST", "cancel":
                return Whole({**whole, "status": "cancelled"})
            case "DELETE", "":
                self._responses.pop(id, None)
                return Whole({"id": id, "object": "response", "deleted": True})
        return None

    def _without_answer(self, action: str, body: Body) -> Whole | None:
        """`/v1/responses/input_tokens` and `/v1/responses/compact`."""
        if action not in ("input_tokens", "compact"):
            return None
        turns = reading.turns(body, "responses")
        tokens = reading.prompt_tokens(turns, body)
        if action == "input_tokens":
            return Whole({"object": "response.input_tokens", "input_tokens": tokens})
        made = self._stamp("resp_", "")
        cut = chat.cut(Reply(reading.last_text(turns)), None, ())
        return Whole(
            {
                "id": made.id,
                "object": "response.compaction",
                "created_at": made.created,
                "output": responses.items(made, cut),
                "usage": responses.usage(tokens, cut),
            }
        )

    def _one_chat(self, rest: str, method: str, seen: Seen) -> Whole | None:
        if not rest:
            if method != "GET":
                return None
            return Whole(_page([_chat_body(kept) for kept in self._chats.values()]))
        id, _, action = rest.partition("/")
        kept = self._find(self._chats, id, "Chat completion")
        match method, action:
            case "GET", "":
                return Whole(_chat_body(kept))
            case "GET", "messages":
                asked = [{"id": f"{id}-{i}", **turn} for i, turn in enumerate(kept.turns)]
                return Whole(_page(asked))
            case "POST", "":
                metadata = reading.json_object(seen.body).get("metadata")
                changed = Kept(
                    kept.made,
                    kept.cuts,
                    kept.prompt,
                    {**kept.body, "metadata": metadata},
                    kept.turns,
                )
                if id in self._chats:
                    self._chats[id] = changed
                return Whole(_chat_body(changed))
            case "DELETE", "":
                self._chats.pop(id, None)
                return Whole({"id": id, "object": "chat.completion.deleted", "deleted": True})
        return None

    def _find(self, stored: dict[str, Kept], id: str, kind: str) -> Kept:
        kept = stored.get(id)
        if kept is not None:
            return kept
        if not self._lenient:
            raise refuse(404, f"{kind} with id '{id}' not found.")
        made = Made(id, int(self._now()), "gpt-5", "fp_standin")
        return Kept(made, (chat.cut(Reply("ok"), None, ()),), 1, {}, ())


def _no_such_model(name: Any) -> Exception:
    return refuse(
        404,
        f"The model `{name}` does not exist or you do not have access to it.",
        code="model_not_found",
    )


def _keep(stored: dict[str, Kept], kept: Kept) -> None:
    stored[kept.made.id] = kept
    if len(stored) > KEPT:
        del stored[next(iter(stored))]


def _tokens(kept: Kept) -> int:
    return sum(chat.output_tokens(cut) for cut in kept.cuts)


def _answered(answer: Answer, behaviour: Behaviour, kept: Kept) -> Answered:
    return Answered(
        answer,
        behaviour,
        kept.prompt,
        _tokens(kept),
        inference=True,
        model=kept.made.model,
        about=reading.last_text(
            reading.broken_off(kept.turns)[0] if behaviour.goes_on else kept.turns
        ),
    )


def _chat_body(kept: Kept) -> dict[str, Any]:
    whole = chat.completion(kept.made, kept.cuts, kept.prompt, kept.body)
    return {**whole, "metadata": kept.body.get("metadata") or {}}


def _page(data: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": False,
    }


def _query(seen: Seen, name: str) -> str | None:
    return parse_qs(seen.query).get(name, [None])[-1]
