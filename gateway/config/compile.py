"""Turns valid models into the domain's frozen values. Pure."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.config.compile_backends import adapters, backend, parts, targets, turns
from gateway.config.compile_compositions import composition
from gateway.config.files.experiments import ExperimentPart
from gateway.config.files.gateway import GatewayFile
from gateway.config.files.limits import QuotaPart, QuotasPart
from gateway.config.files.policies import PolicyFile
from gateway.config.files.routes import CandidatePart, MatchPart, MetricPart, RouteFile
from gateway.config.files.server import CoordinatorPart
from gateway.policy.composed import with_compositions
from gateway.types.backends import (
    Serve,
)
from gateway.types.experiments import Asked, Experiment
from gateway.types.limits import Alerts, Quota, Quotas
from gateway.types.policies import Breaking, Limits, Policy
from gateway.types.routes import Candidate, Comparison, Match, Metric, Route, Shadow
from gateway.types.snapshot import Retention, Server, Snapshot

SECONDS_PER_DAY = 86400


def server(file: GatewayFile, directory: Path) -> Server:
    """The gateway's own side; the encoder's directory becomes absolute."""
    part, classifier = file.server, file.classifier
    host, port = part.listen
    encoder = classifier.directory
    return Server(
        host=host,
        port=port,
        max_head=part.max_head,
        max_body=part.max_body,
        max_bodies=part.max_bodies,
        head_timeout=part.head_timeout,
        body_timeout=part.body_timeout,
        max_open=part.max_open,
        max_connections=part.max_connections,
        open_metrics=part.open_metrics,
        spool=part.spool,
        workers=part.workers,
        store=file.store,
        classifier=classifier.kind,
        encoder=str((directory / encoder).resolve()) if encoder is not None else None,
        encoder_target=classifier.target,
        coordinator=_coordinator_url(file),
        coordinator_name=_coordinator_name(file),
    )


def _coordinator_url(file: GatewayFile) -> str | None:
    part = file.coordinator
    return part.url if isinstance(part, CoordinatorPart) else part


def _coordinator_name(file: GatewayFile) -> str:
    part = file.coordinator
    return part.name if isinstance(part, CoordinatorPart) else Server().coordinator_name


# ---------------------------------------------------------------- routes and policies


def route(file: RouteFile, prompts: Mapping[str, str]) -> Route:
    """A route; `prompts` are the texts of the files that its candidates name."""
    return Route(
        name=file.name,
        description=file.description,
        value=file.value,
        internal=file.data == "internal",
        match=match(file.match),
        candidates=tuple(_candidate(part, prompts) for part in file.candidates),
        policy=file.policy,
        keep=file.keep,
        priority=file.priority,
        quota=quota(file.limits),
        shadow=None
        if file.shadow is None
        else Shadow(
            file.shadow.target, file.shadow.traffic, file.shadow.budget, file.shadow.concurrent
        ),
        experiments=tuple(experiment(name, part) for name, part in file.experiments.items()),
        metrics=tuple(metric(name, part) for name, part in file.metrics.items()),
        right=file.right,
        half_life_s=file.half_life,
        train_every_s=None if file.train is None else file.train.every,
        train_over_all=file.train is not None and file.train.over == "all",
    )


def experiment(name: str, part: ExperimentPart) -> Experiment:
    """An experiment."""
    asked, equal = part.question, 1.0 / len(part.arms)
    return Experiment(
        name=name,
        arms=part.arms,
        shares=dict(part.shares or {}) or dict.fromkeys(part.arms, equal),
        traffic=part.traffic,
        stick_to=part.stick_to,
        bandit=part.mode == "bandit",
        asked=None
        if asked is None
        else Asked(
            arm=asked.arm or "",
            than=asked.no_worse_than or asked.better_than or "",
            metric=asked.metric,
            no_worse=asked.no_worse_than is not None,
            margin=asked.margin,
            best=asked.arm is None,
        ),
        first_token_p95=part.guards.first_token_p95,
        errors=part.guards.errors,
        confidence=part.confidence,
        most_usd=part.stop_at.spend,
        most_s=None if part.stop_at.days is None else part.stop_at.days * SECONDS_PER_DAY,
        promote=part.when_answered == "promote",
        slot_s=part.slot if part.latency == "switchback" else None,
        winner=part.winner,
    )


def metric(name: str, part: MetricPart) -> Metric:
    """What is said of an answer, and when that makes it right."""
    wanted = part.right_when
    comparison: Comparison | None = None
    bound = 0.0
    if isinstance(wanted, tuple):
        comparison, bound = wanted
    elif part.type == "boolean":
        comparison, bound = "=", float(wanted is not False)
    return Metric(name, part.type, part.source, comparison, bound, part.within)


def quota(part: QuotaPart | None) -> Quota | None:
    """Limits and budgets; None where none is written."""
    if part is None:
        return None
    return Quota(part.requests, part.tokens, part.concurrent, part.budget.day, part.budget.month)


def quotas(part: QuotasPart) -> Quotas:
    """What is declared for keys and tenants."""
    alerts = part.alerts
    return Quotas(
        every_key=quota(part.every_key),
        every_tenant=quota(part.every_tenant),
        tenants={name: quota(each) or Quota() for name, each in part.tenants.items()},
        alerts=None
        if alerts is None
        else Alerts(tuple(sorted(set(alerts.at))), alerts.webhook, alerts.secret),
    )


def match(part: MatchPart | str) -> Match:
    """How a route is recognised; nothing for a route that only its name leads to."""
    if not isinstance(part, MatchPart):
        return Match()
    return Match(
        headers=part.headers,
        keywords=tuple(part.keywords),
        patterns=tuple(part.patterns),
        examples=tuple(part.examples),
    )


def _candidate(part: CandidatePart, prompts: Mapping[str, str]) -> Candidate:
    return Candidate(
        target=part.target,
        quality=part.quality,
        quality_n=part.observations,
        system=prompts[part.system] if part.system is not None else None,
    )


def policy(file: PolicyFile) -> Policy:
    """A policy."""
    return Policy(
        name=file.name,
        waiting_first_token=file.waiting.first_token,
        waiting_whole=file.waiting.whole,
        limits=Limits(
            cost=file.limits.cost,
            first_token_p95=file.limits.first_token_p95,
            whole_p95=file.limits.whole_p95,
            quality=file.limits.quality,
        ),
        if_none_fits=file.if_none_fits,
        switch_margin=file.switch_if_better_by,
        explore=file.explore,
        value_weight=file.weigh.quality,
        price_weight=file.weigh.price,
        on_cold=file.on_cold,
        tries=file.on_failure.tries,
        retries=file.on_failure.retries,
        again=file.on_failure.again,
        backoff_first_s=file.on_failure.backoff.first,
        backoff_most_s=file.on_failure.backoff.most,
        total_s=file.on_failure.total,
        first_token_s=file.on_failure.first_token,
        hedge=file.on_failure.hedge,
        learned=file.quality == "learned",
        carry_on=file.on_failure.continue_,
        breaking=Breaking(
            failures=file.on_failure.breaker.failures,
            share=file.on_failure.breaker.share,
            window_s=file.on_failure.breaker.window,
            first_s=file.on_failure.breaker.pause,
            most_s=file.on_failure.breaker.most,
        ),
    )


# ---------------------------------------------------------------- the whole


def snapshot(
    file: GatewayFile,
    directory: Path,
    routes: Mapping[str, Route],
    policies: Mapping[str, Policy],
    texts: Mapping[str, str],
) -> Snapshot:
    """The whole configuration, under the hash of its content; `texts` are those of files that
    compositions name."""
    declared = list(parts(file))
    whole = Snapshot(
        hash="",
        server=server(file, directory),
        default_route=file.default_route,
        aliases=file.aliases,
        routes=routes,
        policies=policies,
        targets={target.name: target for name, part in declared for target in targets(name, part)},
        backends={
            name: msgspec.structs.replace(backend(name, part, directory), turns=turns(file, name))
            for name, part in declared
        },
        adapters=tuple(
            adapter for name, part in declared for adapter in adapters(name, part, directory)
        ),
        compositions={
            each.target: each
            for each in (composition(name, part, texts) for name, part in file.compositions.items())
        },
        quotas=quotas(file.limits),
        retention=Retention(file.retention.text, file.retention.requests),
    )
    whole = with_compositions(whole)
    return msgspec.structs.replace(whole, hash=hashlib.sha256(canonical(whole)).hexdigest())


def canonical(whole: Snapshot) -> bytes:
    """The content as JSON, the same for the same content. Secrets stand in it as digests only.

    The routes' order counts, because rules that are equal go by it; no other order does.
    """
    hidden = {
        name: msgspec.structs.replace(
            each,
            serve=tuple(_without_secrets(serve) for serve in each.serve),
            api_key=_digest(each.api_key) if each.api_key is not None else None,
            headers={key: _digest(value) for key, value in each.headers.items()},
            arguments={
                key: _digest(msgspec.json.encode(value, order="deterministic").decode())
                for key, value in each.arguments.items()
            },
        )
        for name, each in whole.backends.items()
    }
    quotas, alerts = whole.quotas, whole.quotas.alerts
    if alerts is not None:
        alerts = msgspec.structs.replace(alerts, secret=_digest(alerts.secret))
        quotas = msgspec.structs.replace(quotas, alerts=alerts)
    content = msgspec.structs.replace(whole, hash="", backends=hidden, quotas=quotas)
    return msgspec.json.encode([content, list(whole.routes)], order="deterministic")


def _without_secrets(serve: Serve) -> Serve:
    hidden = {name: _digest(value) for name, value in serve.env.items()}
    return msgspec.structs.replace(serve, env=hidden)


def _digest(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"
