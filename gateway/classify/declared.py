"""The classifier that a configuration declares: the same for the gateway and for `explain`."""

from pathlib import Path

from gateway.classify.base import Classifier
from gateway.classify.fit import fit
from gateway.types.snapshot import Snapshot


def declared_classifier(snapshot: Snapshot, cache: Path | None = None) -> Classifier | None:
    """Fitted on the routes' examples; None where there are none. `cache` keeps fits.

    Raises EncoderError for an encoder's directory that cannot be used. An encoder's server that
    cannot be asked is no error: see StandingClassifier.
    """
    examples = [
        (text, route.name) for route in snapshot.routes.values() for text in route.match.examples
    ]
    server = snapshot.server
    if not examples:
        return None
    if server.classifier == "lexical":
        return fit("lexical", examples, cache)
    if server.encoder is not None:
        from gateway.classify.bert import BertEncoder  # needs the extra `embedding`

        return fit("embedding", examples, cache, BertEncoder(Path(server.encoder)))
    return _by_server(snapshot, server.encoder_target or "", examples, cache)


def learns_from(snapshot: Snapshot) -> object:
    """What the classifier comes from: where this is equal, the classifier is the same."""
    examples = [
        (text, route.name) for route in snapshot.routes.values() for text in route.match.examples
    ]
    server = snapshot.server
    if not examples or server.classifier == "lexical":
        return examples
    target = snapshot.targets[server.encoder_target] if server.encoder_target else None
    backend = snapshot.backends[target.backend] if target is not None else None
    return (examples, server.encoder, target, backend)


def _by_server(
    snapshot: Snapshot, name: str, examples: list[tuple[str, str]], cache: Path | None
) -> Classifier:
    import httpx

    from gateway.classify.encoder import EncoderError, HttpEncoder
    from gateway.classify.standing import StandingClassifier

    target = snapshot.targets[name]
    backend = snapshot.backends[target.backend]
    key = {"authorization": f"Bearer {backend.api_key}"} if backend.api_key else {}
    limits = httpx.Timeout(backend.timeouts.first_byte, connect=backend.timeouts.connect)
    headers = {**backend.headers, **key}
    client = httpx.Client(headers=headers, timeout=limits, trust_env=False, proxy=backend.proxy)

    def make() -> Classifier:
        if not target.replicas:
            raise EncoderError(f"{name}: its backend has no replica in this process")
        encoder = HttpEncoder(client, backend.api_url(target.replicas[0]), target.served)
        return fit("embedding", examples, cache, encoder)

    return StandingClassifier(make)
