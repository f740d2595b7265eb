"""The manifests in `deploy/`: right by Kubernetes' own schemas, and agreed with each other."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml

from gateway.backends.vllm_command import command
from gateway.cli import build
from gateway.config.load import load
from gateway.types.backends import Serve

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VARIANTS = ("shared", "agents")
VERSIONS = ("1.30", "1.37")
"""Of Kubernetes: an old one that is still about, and the newest that the schemas are known of."""
BY_HAND = {("Secret", "switchboard")}
"""What the pages say to make: it holds keys."""
ENV = {"VLLM_KEY": "k", "OPENAI_API_KEY": "k"}


def _kustomization(folder: Path) -> Any:
    return yaml.safe_load((folder / "kustomization.yaml").read_text())


def _documents(folder: Path) -> Iterator[tuple[str, Any]]:
    """(where, what) of everything that a directory's kustomization brings in."""
    for name in _kustomization(folder)["resources"]:
        path = (folder / name).resolve()
        if path.is_dir():
            yield from _documents(path)
            continue
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.name}: {document['kind']} {document['metadata']['name']}", document


def everything(variant: str) -> list[Any]:
    return [document for _, document in _documents(KUBERNETES / variant)]


def one(variant: str, kind: str, name: str) -> Any:
    (found,) = [
        each
        for each in everything(variant)
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


def pods(variant: str) -> list[tuple[Any, Any]]:
    """(the workload, its pods' spec)."""
    return [
        (each, each["spec"]["template"]["spec"])
        for each in everything(variant)
        if each["kind"] in ("Deployment", "StatefulSet")
    ]


def container(variant: str, name: str) -> Any:
    (found,) = [
        each for _, pod in pods(variant) for each in pod["containers"] if each["name"] == name
    ]
    return found


ALL = [
    (f"{v} {where}", document) for v in VARIANTS for where, document in _documents(KUBERNETES / v)
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", [d for _, d in ALL], ids=[where for where, _ in ALL])
def test_each_is_right_by_the_apis_schema(document: Any, version: str) -> None:
    """Strictly: a key that the API does not know is an error."""
    kubernetes_validate.validate(document, version, strict=True)


def test_a_key_that_the_api_does_not_know_would_be_seen() -> None:
    document = one("shared", "Service", "vllm")
    document["spec"]["clusterip"] = "None"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_manifest_and_file_is_brought_in(variant: str) -> None:
    folder = KUBERNETES / variant
    brought = set(_kustomization(folder)["resources"])
    assert {path.name for path in folder.glob("*.yaml")} == {
        name for name in brought if name.endswith(".yaml")
    } | {"kustomization.yaml"}
    files = {
        file for each in _kustomization(folder)["configMapGenerator"] for file in each["files"]
    }
    assert files == {
        str(path.relative_to(folder)) for path in (folder / "config").rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_selectors_select_pods_and_ports_are_listened_on(variant: str) -> None:
    labels = [work["spec"]["template"]["metadata"]["labels"] for work, _ in pods(variant)]
    ports = {
        port["name"]: port["containerPort"]
        for _, pod in pods(variant)
        for each in pod["containers"]
        for port in each["ports"]
    }
    for each in everything(variant):
        spec = each["spec"]
        match each["kind"]:
            case "Deployment" | "StatefulSet" | "PodDisruptionBudget":
                selector = spec["selector"]["matchLabels"]
            case "Service":
                selector = spec["selector"]
                assert {port["targetPort"] for port in spec["ports"]} <= ports.keys()
            case "NetworkPolicy":
                selector = spec["podSelector"]["matchLabels"]
                allowed = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
                assert allowed <= {8000, 8080, 8081}
            case _:
                continue
        assert any(selector.items() <= label.items() for label in labels), each["metadata"]
    for _, pod in pods(variant):
        for each in pod["containers"]:
            own = {port["name"] for port in each["ports"]}
            probes = [each[name] for name in each if name.endswith("Probe")]
            assert {probe["httpGet"]["port"] for probe in probes} <= own
            assert all(port in " ".join(each["args"]) for port in map(str, _ports(each)))


def _ports(container: Any) -> list[int]:
    return [port["containerPort"] for port in container["ports"]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_whatever_is_named_is_there_or_is_told_to_be_made(variant: str) -> None:
    folder = KUBERNETES / variant
    made = {(each["kind"], each["metadata"]["name"]) for each in everything(variant)} | BY_HAND
    made |= {("ConfigMap", each["name"]) for each in _kustomization(folder)["configMapGenerator"]}
    for work, pod in pods(variant):
        named = {
            ("ConfigMap", volume["configMap"]["name"])
            for volume in pod["volumes"]
            if "configMap" in volume
        } | {
            ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        }
        for each in pod["containers"]:
            named |= {("Secret", f["secretRef"]["name"]) for f in each.get("envFrom", [])}
            named |= {
                ("Secret", e["valueFrom"]["secretKeyRef"]["name"])
                for e in each.get("env", [])
                if "valueFrom" in e
            }
        assert named <= made
        volumes = {volume["name"] for volume in pod["volumes"]} | {
            claim["metadata"]["name"] for claim in work["spec"].get("volumeClaimTemplates", [])
        }
        mounted = {m["name"] for each in pod["containers"] for m in each["volumeMounts"]}
        assert mounted == volumes


def as_mounted(variant: str, folder: Path) -> Path:
    """The configuration as a pod sees it: config maps are directories of links."""
    config = KUBERNETES / variant / "config"
    folder.mkdir()
    for name in ("routes", "policies"):
        (folder / name / "..data").mkdir(parents=True)
        for path in (config / name).iterdir():
            (folder / name / "..data" / path.name).write_bytes(path.read_bytes())
            os.symlink(f"..data/{path.name}", folder / name / path.name)
    (folder / "gateway.yaml").write_bytes((config / "gateway.yaml").read_bytes())
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_is_right_and_agrees_with_the_manifests(
    variant: str, tmp_path: Path
) -> None:
    found = load(as_mounted(variant, tmp_path / "etc"), ENV)
    backend = found.snapshot.backends["gpu"]
    vllm = container(variant, "vllm")
    service = one(variant, "Service", "vllm")
    (port,) = service["spec"]["ports"]
    assert backend.replicas == (f"dns://{service['metadata']['name']}:{port['port']}",)
    assert service["spec"]["clusterIP"] == "None"
    args = set(vllm["args"])
    assert f"--max-loras={backend.slots}" in args
    assert f"--max-cpu-loras={backend.cpu_slots}" in args
    assert f"--max-lora-rank={backend.max_rank}" in args
    model = found.snapshot.targets["gpu/qwen"]
    assert f"--served-model-name={model.served}" in args
    assert f"--max-model-len={model.capabilities.context}" in args
    mounts = {mount["mountPath"] for mount in vllm["volumeMounts"]}
    assert str(Path(backend.shelf_on_replicas).parent) in mounts
    gateway = {mount["mountPath"] for mount in container(variant, "gateway")["volumeMounts"]}
    assert backend.adapters_here in gateway
    assert (backend.agent is not None) == (variant == "agents")


@pytest.mark.parametrize("variant", VARIANTS)
def test_vllm_is_started_as_switchboard_up_would(variant: str, tmp_path: Path) -> None:
    """The same options, but for what a pod adds."""
    found = load(as_mounted(variant, tmp_path / "etc"), ENV).snapshot
    serve = Serve("qwen", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "0.0.0.0", 8000)
    ours = command(["python", "-m", "vllm"], serve, found.backends["gpu"], found.adapters)[3:]
    options = {word for word in ours if word.startswith("--")}
    theirs = {word.partition("=")[0] for word in container(variant, "vllm")["args"]}
    assert theirs - options == {"--max-model-len"}
    assert options <= theirs
    env = {each["name"]: each.get("value") for each in container(variant, "vllm")["env"]}
    assert env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert "VLLM_API_KEY" in env


def test_an_agent_puts_adapters_where_vllm_reads_them(tmp_path: Path) -> None:
    found = load(as_mounted("agents", tmp_path / "etc"), ENV).snapshot
    args = dict(
        word.removeprefix("--").split("=") for word in container("agents", "agent")["args"][1:]
    )
    assert args["dir"] in {m["mountPath"] for m in container("agents", "vllm")["volumeMounts"]}
    assert found.backends["gpu"].agent == f"http://{{host}}:{args['listen'].split(':')[1]}"
    gateway = one("agents", "Service", "switchboard")
    (port,) = gateway["spec"]["ports"]
    assert args["gateway"] == f"http://{gateway['metadata']['name']}:{port['port']}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_commands_are_ones_that_we_have(variant: str) -> None:
    whole = typer.main.get_command(build())
    for _, pod in pods(variant):
        for each in pod["containers"]:
            if each["image"].startswith("switchboard"):
                name, *options = each["args"]
                chosen = whole.commands[name]  # type: ignore[attr-defined]
                chosen.make_context(name, list(options), resilient_parsing=False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_ours_run_without_rights(variant: str) -> None:
    for _, pod in pods(variant):
        assert pod["automountServiceAccountToken"] is False
        for each in pod["containers"]:
            if each["image"].startswith("switchboard"):
                security = {**pod["securityContext"], **each["securityContext"]}
                assert security["runAsNonRoot"]
                assert security["readOnlyRootFilesystem"]
                assert security["capabilities"] == {"drop": ["ALL"]}


def test_the_image_is_made_of_what_is_there() -> None:
    """Each file that it copies is in the tree, and what is installed is locked with hashes."""
    text = (DEPLOY / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert sources
    assert all((DEPLOY.parent / source).exists() for source in sources)
    assert "--require-hashes" in text
    ((_, pod),) = [each for each in pods("shared") if each[0]["kind"] == "Deployment"]
    assert f"USER {pod['securityContext']['runAsUser']}\n" in text
