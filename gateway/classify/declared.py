"""The classifier that a configuration declares, and its encoder: the same for the gateway, for
`explain`, and for what is learned."""

from pathlib import Path

import msgspec

from gateway.classify.base import Classifier
from gateway.classify.encoder import Encoder
from gateway.classify.fit import fit
from gateway.classify.standing import StandingClassifier
from gateway.types.snapshot import Snapshot


class Reads(msgspec.Struct, frozen=True, eq=False):
    """`classifier` is None where no route has examples. `local` is the encoder of a directory, and
    `standing` looks after that of a server; neither is there where the classifier is lexical.

    `encoder_id` stands for a server's encoder: unlike its own id it is without an address, and so
    the same wherever it is asked from.
    """

    classifier: Classifier | None
    local: Encoder | None = None
    standing: StandingClassifier | None = None
    encoder_id: str | None = None

    @property
    def encodes(self) -> bool:
        """Whether there is an encoder, be it away."""
        return self.local is not None or self.standing is not None

    @property
    def encoder(self) -> Encoder | None:
        """None while it is away, or where there is none."""
        return self.standing.encoder if self.standing is not None else self.local


def declared(snapshot: Snapshot, cache: Path | None = None) -> Reads:
    """Fitted on the routes' examples. `cache` keeps fits.

    Raises EncoderError for an encoder's directory that cannot be used. An encoder's server that
    cannot be asked is no error: see StandingClassifier.
    """
    examples = _examples(snapshot)
    server = snapshot.server
    if server.classifier == "lexical":
        return Reads(fit("lexical", examples, cache) if examples else None)
    if server.encoder is not None:
        from gateway.classify.bert import BertEncoder  # needs the extra `embedding`

        encoder = BertEncoder(Path(server.encoder))
        classifier = fit("embedding", examples, cache, encoder) if examples else None
        return Reads(classifier, encoder)
    return _by_server(snapshot, server.encoder_target or "", examples, cache)


def learns_from(snapshot: Snapshot) -> object:
    """What the classifier comes from: where this is equal, the classifier is the same."""
    examples = _examples(snapshot)
    server = snapshot.server
    if server.classifier == "lexical":
        return examples
    target = snapshot.targets[server.encoder_target] if server.encoder_target else None
    backend = snapshot.backends[target.backend] if target is not None else None
    return (examples, server.encoder, target, backend)


def _examples(snapshot: Snapshot) -> list[tuple[str, str]]:
    return [
        (text, route.name) for route in snapshot.routes.values() for text in route.match.examples
    ]


def _by_server(
    snapshot: Snapshot, name: str, examples: list[tuple[str, str]], cache: Path | None
) -> Reads:
    import httpx

    from gateway.classify.encoder import EncoderError, HttpEncoder

    target = snapshot.targets[name]
    backend = snapshot.backends[target.backend]
    key = {"authorization": f"Bearer {backend.api_key}"} if backend.api_key else {}
    limits = httpx.Timeout(backend.timeouts.first_byte, connect=backend.timeouts.connect)
    headers = {**backend.headers, **key}
    client = httpx.Client(headers=headers, timeout=limits, trust_env=False, proxy=backend.proxy)

    def make() -> tuple[Encoder, Classifier | None]:
        if not target.replicas:
            raise EncoderError(f"{name}: its backend has no replica in this process")
        encoder = HttpEncoder(client, backend.api_url(target.replicas[0]), target.served)
        return encoder, fit("embedding", examples, cache, encoder) if examples else None

    standing = StandingClassifier(make)
    classifier = standing if examples else None
    return Reads(classifier, None, standing, f"{name} {target.served}")
