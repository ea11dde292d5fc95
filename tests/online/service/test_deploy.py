"""deploy/: what cannot be run here is read, and held against the service and against the rules of hardened pods."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from captionary.commands.serve import serve
from captionary.config import from_mapping
from captionary.online.service.settings import ServeConfig, load_serve

DEPLOY = Path(__file__).parents[3] / "deploy"
MANIFESTS = [
    document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]
KINDS = {
    "Namespace": "v1",
    "PersistentVolumeClaim": "v1",
    "ConfigMap": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}
WORKLOADS = [one for one in MANIFESTS if one["kind"] in ("Deployment", "StatefulSet")]
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())


def named(kind, name):
    return next(one for one in MANIFESTS if (one["kind"], one["metadata"]["name"]) == (kind, name))


def test_every_manifest_is_of_a_kind_and_named_once():
    names = [(one["kind"], one["metadata"]["name"]) for one in MANIFESTS]
    assert len(names) == len(set(names))
    for one in MANIFESTS:
        assert one["apiVersion"] == KINDS[one["kind"]]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", one["metadata"]["name"])
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    on_disk = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed) == on_disk
    assert {kind for kind, _ in names} == set(KINDS)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one["metadata"]["name"])
def test_pods_are_hardened_and_whole(workload):
    spec = workload["spec"]["template"]["spec"]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    claimed = {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", [])}
    volumes = {one["name"] for one in spec["volumes"]} | claimed
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (
        set(container["resources"]["requests"]) == set(container["resources"]["limits"]) == {"cpu", "memory"}
    )
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
    for volume in spec["volumes"]:
        if claim := volume.get("persistentVolumeClaim"):
            assert named("PersistentVolumeClaim", claim["claimName"])
        if found := volume.get("configMap"):
            assert named("ConfigMap", found["name"])
    for variable in container["env"]:
        if "value" in variable:
            assert ":$(REDIS_PASSWORD)@" in variable["value"]
        else:
            assert variable["valueFrom"]["secretKeyRef"]["name"] == "captionary"  # no password in a file
    assert not any("PASSWORD" in word and "redis://" in word for word in container.get("args", []))


def test_what_refers_to_something_refers_to_what_is_there():
    workloads = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in WORKLOADS}
    for one in MANIFESTS:
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            assert spec["selector"] in workloads.values()
            (port,) = spec["ports"]
            (container,) = next(
                w["spec"]["template"]["spec"]["containers"]
                for w in WORKLOADS
                if w["spec"]["template"]["metadata"]["labels"] == spec["selector"]
            )
            assert port["targetPort"] in {p["name"] for p in container["ports"]}
        elif one["kind"] == "PodDisruptionBudget":
            name = next(
                name for name, labels in workloads.items() if labels == spec["selector"]["matchLabels"]
            )
            assert (
                spec["minAvailable"] < named("Deployment", name)["spec"]["replicas"]
            )  # a node can be emptied
        elif one["kind"] == "HorizontalPodAutoscaler":
            assert named("Deployment", spec["scaleTargetRef"]["name"])
            assert spec["minReplicas"] > named("PodDisruptionBudget", "service")["spec"]["minAvailable"]
        elif one["kind"] == "NetworkPolicy" and spec["podSelector"]:
            assert spec["podSelector"]["matchLabels"] in workloads.values()


def test_everything_is_forbidden_that_is_not_allowed():
    nothing = named("NetworkPolicy", "nothing")["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in ("service", "worker", "redis"):
        assert named("NetworkPolicy", name)["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in named("NetworkPolicy", "worker")["spec"]
    assert "egress" not in named("NetworkPolicy", "redis")["spec"]


def test_probes_ask_what_the_service_has_and_a_stop_has_time(served):
    pod = named("Deployment", "service")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    paths = {
        container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {"/healthz", "/readyz"}
    assert (
        container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    )  # a store that is away is no reason to start anew
    for path in paths:
        assert served.client.get(path).status_code == 200
    limits = config_of(named("ConfigMap", "captionary")["data"]["serve.yaml"]).limits
    assert pod["terminationGracePeriodSeconds"] > limits.drain_seconds + limits.write_seconds
    assert container["readinessProbe"]["periodSeconds"] * 2 < limits.drain_seconds
    assert container["ports"][0]["containerPort"] == 8750


def config_of(text):
    return from_mapping(ServeConfig, yaml.safe_load(text), where="serve.yaml")


def test_the_services_own_files_are_read_by_the_service(monkeypatch):
    monkeypatch.setenv("CAPTIONARY_STORE", "redis://:p@redis:6379/0")
    monkeypatch.setenv("CAPTIONARY_LOG", "redis://:p@redis:6379/1")
    config = load_serve(DEPLOY / "serve.yaml")
    assert config.store == "redis://:p@redis:6379/0"
    other = config_of(named("ConfigMap", "captionary")["data"]["serve.yaml"])
    for name in ("rankers", "profiles", "spool", "keys", "secret", "limits", "host", "port"):
        assert getattr(other, name) == getattr(config, name), name
    assert "${REDIS_PASSWORD}" in other.store
    for path in [*config.rankers.values(), config.tokenizer, config.spool, config.keys, config.secret]:
        assert path.parts[1] in ("artefacts", "data", "secrets")  # what is mounted


def test_commands_are_verbs_with_their_options():
    from captionary.commands.ingest import ingest

    (worker,) = named("Deployment", "worker")["spec"]["template"]["spec"]["containers"]
    run = ingest.commands[worker["args"][1]]
    known = {option for parameter in run.params for option in parameter.opts}
    assert worker["args"][:2] == ["ingest", "run"]
    assert {word.partition("=")[0] for word in worker["args"] if word.startswith("--")} <= known
    said = " ".join(COMPOSE["services"]["worker"]["command"])
    assert set(re.findall(r"--[a-z-]+", said)) <= known
    assert COMPOSE["services"]["service"]["command"][0] == serve.name
    assert 'CMD ["serve", "/config/serve.yaml"]' in (DEPLOY / "Dockerfile").read_text()


def test_containers_of_compose_are_hardened():
    services = COMPOSE["services"]
    assert set(services) == {"service", "worker", "redis", "prometheus"}
    for name, one in services.items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert not one["user"].startswith("0"), name
        assert "memory" in one["deploy"]["resources"]["limits"], name
        for port in one.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for volume in one["volumes"]:
            source = volume.partition(":")[0]
            assert source.startswith("./") or source in COMPOSE["volumes"], volume
    assert COMPOSE["networks"]["back"]["internal"] is True
    assert services["redis"]["networks"] == services["worker"]["networks"] == ["back"]
    text = (DEPLOY / "docker-compose.yaml").read_text()
    assert not re.search(r"(?i)password[:=]\s*[a-z0-9]", text)


def test_docker_reads_the_compose_file():
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker has no compose")
    found = subprocess.run(
        ["docker", "compose", "-f", str(DEPLOY / "docker-compose.yaml"), "config", "--quiet"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "REDIS_PASSWORD": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr


def test_the_image_has_no_root_and_no_secret():
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == "10001:10001"
    assert "ADD " not in text
    assert not re.search(r"(?i)(password|secret|token)=", text)
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert (DEPLOY.parent / path).exists(), path


def test_alerts_ask_for_metrics_that_there_are(served):
    shown = served.client.get("/metrics", headers=served.admin).text
    names = set(re.findall(r"^# TYPE (\S+) ", shown, re.MULTILINE))
    names |= {f"{name}_bucket" for name in names}
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]
    asked = {name for rule in rules for name in re.findall(r"captionary_\w+", rule["expr"])}
    assert len(asked) >= 6
    assert asked <= names
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    assert scrape["scrape_configs"][0]["authorization"]["credentials_file"] == "/etc/prometheus/key"
