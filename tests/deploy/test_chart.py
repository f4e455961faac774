"""The chart, rendered with every file of values that comes with it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from scripts import chart_schema
from service.adapters.sql.engine import migrate
from service.settings import PREFIX, FolderConnection, S3Connection, Settings
from tests.deploy.chart import HelmFailed, Rendered, render, run

CHART = Path(__file__).parents[2] / "helm" / "arrowquant"
VALUES = sorted([*CHART.glob("ci/*.yaml"), *CHART.parent.glob("examples/*.yaml")])
VALIDATE = """
import json, sys, kubernetes_validate
manifests, versions = json.load(sys.stdin), sys.argv[1:]
for version in versions:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)
print(len(manifests) * len(versions))
"""
EVERYTHING = CHART / "ci" / "everything-values.yaml"
SECRET_WORDS = re.compile(r"password|secret_access_key\b|BEGIN .*PRIVATE|://[^/\s\"]*:[^/\s\"]*@")


def _arguments(values: Path | None) -> list[str]:
    return [] if values is None else ["--values", str(values)]


@pytest.fixture(scope="module", params=[None, *VALUES], ids=lambda p: p.stem if p else "defaults")
def rendered(request: pytest.FixtureRequest, helm: Path) -> Rendered:
    return render(helm, CHART, *_arguments(request.param))


@pytest.fixture(scope="module")
def defaults(helm: Path) -> Rendered:
    return render(helm, CHART)


@pytest.fixture(scope="module")
def everything(helm: Path) -> Rendered:
    return render(helm, CHART, *_arguments(EVERYTHING))


@pytest.mark.parametrize("values", [None, *VALUES], ids=lambda p: p.stem if p else "defaults")
def test_the_linter_is_content(helm: Path, values: Path | None) -> None:
    assert "0 chart(s) failed" in run(helm, "lint", "--strict", str(CHART), *_arguments(values))


def test_manifests_are_valid_kubernetes(helm: Path, checkers: Path) -> None:
    """For the oldest version that the chart takes, one between, and a new one."""
    plain = [
        one
        for values in (None, *VALUES)
        for one in render(helm, CHART, *_arguments(values)).objects
        if not one["apiVersion"].startswith(("keda.sh/", "monitoring.coreos.com/"))
    ]
    done = subprocess.run(
        [str(checkers / "python"), "-c", VALIDATE, "1.25", "1.31", "1.37"],
        input=json.dumps(plain),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) == 3 * len(plain)


def test_pods_may_do_nothing(rendered: Rendered) -> None:
    for component, pod in rendered.pods():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, component
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            assert key not in spec
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {m["mountPath"] for m in container["volumeMounts"]} == {
                "/tmp",
                "/var/lib/arrowquant",
            }
            assert "memory" in container["resources"]["limits"]
            assert "memory" in container["resources"]["requests"]
        assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"])


def test_images_are_named_exactly(rendered: Rendered) -> None:
    for _, pod in rendered.pods():
        for container in pod["spec"]["containers"]:
            name, _, tag = container["image"].rpartition(":")
            assert name.rpartition("/")[2] in {"arrowquant-api", "arrowquant-worker"}
            assert tag
            assert tag != "latest"


def test_only_settings_are_set(rendered: Rendered, variables: set[str]) -> None:
    names = {
        name
        for one in rendered.of("ConfigMap")
        for name in one["data"]
        if not name.startswith("OTEL_")
    }
    names |= {
        entry["name"]
        for _, pod in rendered.pods()
        for container in pod["spec"]["containers"]
        for entry in container["env"]
        if entry["name"].startswith(PREFIX)
    }
    assert names <= variables


def test_the_service_accepts_what_is_set(
    rendered: Rendered, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config,) = rendered.of("ConfigMap")
    for component in ("api", "worker"):
        (container,) = rendered.named("Deployment", component)["spec"]["template"]["spec"][
            "containers"
        ]
        plain = {e["name"]: e["value"] for e in container["env"] if "value" in e}
        with monkeypatch.context() as patch:
            for name, value in (config["data"] | plain).items():
                patch.setenv(name, value)
            settings = Settings.load()
        listed = json.loads(config["data"]["ARROWQUANT_CONNECTIONS"])
        assert set(settings.connections) == set(listed)
        given = {e["name"] for e in container["env"]}
        for connection in listed.values():
            assert {v for k, v in connection.items() if k.endswith("_env")} <= given
        if component == "api":
            assert (settings.host, settings.port) == ("0.0.0.0", 8080)


def test_secrets_are_only_referred_to(rendered: Rendered) -> None:
    assert rendered.of("Secret") == []
    for one in rendered.of("ConfigMap"):
        assert not SECRET_WORDS.search(json.dumps(one["data"]).replace("secret_access_key_env", ""))
    for _, pod in rendered.pods():
        for container in pod["spec"]["containers"]:
            env = {entry["name"]: entry for entry in container["env"]}
            secret = {"ARROWQUANT_DATABASE_URL", "ARROWQUANT_BROKER_URL"}
            if container["name"] != "migrate":
                secret.add("ARROWQUANT_SECRET_KEYS")
            for name in secret:
                assert set(env[name]["valueFrom"]) == {"secretKeyRef"}


def test_a_service_without_keys_of_its_own_can_be_had(helm: Path) -> None:
    assert "ARROWQUANT_SECRET_KEYS" not in run(
        helm, "template", str(CHART), "--set", "secret.secretKeysKey="
    )


def test_everything_that_selects_finds_its_pods(rendered: Rendered) -> None:
    labels = {component: pod["metadata"]["labels"] for component, pod in rendered.pods()}
    selectors: list[tuple[str | None, dict[str, str]]] = []
    for one in rendered.objects:
        component = one["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        match one["kind"]:
            case "Deployment" | "PodDisruptionBudget":
                selectors.append((component, one["spec"]["selector"]["matchLabels"]))
            case "Service":
                selectors.append(("api", one["spec"]["selector"]))
            case "NetworkPolicy":
                selectors.append((component, one["spec"]["podSelector"]["matchLabels"]))
            case "HorizontalPodAutoscaler" | "ScaledObject":
                target = one["spec"]["scaleTargetRef"]["name"]
                deployment = rendered.named("Deployment", target)
                assert "replicas" not in deployment["spec"], "the autoscaler decides"
    assert selectors
    for component, selector in selectors:
        chosen = {name for name, has in labels.items() if selector.items() <= has.items()}
        assert chosen == ({component} if component else set(labels))


def test_the_api_says_how_it_is(rendered: Rendered) -> None:
    pod = rendered.named("Deployment", "api")["spec"]["template"]["spec"]
    (api,) = pod["containers"]
    assert api["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert api["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert api["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert pod["terminationGracePeriodSeconds"] > 10 + 5  # downloads, and the pause before


def test_a_worker_has_threads_for_its_processors_and_time_to_drain(rendered: Rendered) -> None:
    pod = rendered.named("Deployment", "worker")["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    env = {entry["name"]: entry for entry in worker["env"]}
    assert env["ARROWQUANT_THREADS"]["valueFrom"]["resourceFieldRef"] == {
        "containerName": "worker",
        "resource": "limits.cpu",
        "divisor": "1",
    }
    assert worker["livenessProbe"]["exec"]["command"] == ["python", "-m", "workers.alive"]
    assert {"cpu", "memory"} <= set(worker["resources"]["limits"])
    assert pod["terminationGracePeriodSeconds"] >= 120
    if "ARROWQUANT_MAX_MEMORY_BYTES" in env:
        cap = env["ARROWQUANT_MAX_MEMORY_BYTES"]["value"]
        limit = worker["resources"]["limits"]["memory"]
        assert _bytes(cap) + 256 * 2**20 <= _bytes(limit)


def test_the_schema_is_brought_up_first(defaults: Rendered) -> None:
    job = defaults.named("Job", "migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["migrate"]
    # Nothing of the release is there yet.
    assert "serviceAccountName" not in pod
    assert "envFrom" not in pod["containers"][0]


@pytest.mark.real
def test_the_scaler_asks_what_the_database_can_answer(
    everything: Rendered, postgres_database: str
) -> None:
    (scaled,) = everything.of("ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    migrate(postgres_database)
    with psycopg.connect(postgres_database.replace("+psycopg", "")) as connection:
        assert connection.execute(trigger["metadata"]["query"]).fetchone() == (0,)


@pytest.mark.parametrize(
    "value",
    [
        "image.tag=latest",
        "workers.replicas=3",
        "settings.no_such_setting=1",
        "settings.database_url=postgresql://u:p@h/d",
        "settings.secret_keys=abc",
        "settings.metrics_port=9090",
        "settings.webhook_timeout_s=90",
        "settings.oidc_scopes.leads={root}",
        "environment.ARROWQUANT_SECRET_KEYS=abc",
        "environment.AWS_SECRET_ACCESS_KEY=abc",
        "environment.OTEL_EXPORTER_OTLP_HEADERS=abc",
        "grants.acme.secret=abc",
        "connections.Models.kind=s3",
        "connections.models.kind=ftp",
        "secret.databaseUrl=postgresql://u:p@h/d",
        "worker.maxMemory=much",
    ],
)
def test_wrong_values_are_refused(helm: Path, value: str) -> None:
    with pytest.raises(HelmFailed, match="schema"):
        render(helm, CHART, "--set", value)


def test_whole_numbers_stay_whole(helm: Path) -> None:
    text = run(
        *(helm, "template", str(CHART), "--show-only", "templates/configmap.yaml"),
        *("--set", "settings.max_body_bytes=1048576", "--set-json", "settings.lease_s=7.5"),
    )
    data = yaml.safe_load(text)["data"]
    assert data["ARROWQUANT_MAX_BODY_BYTES"] == "1048576"
    assert data["ARROWQUANT_LEASE_S"] == "7.5"


def test_the_schema_of_values_follows_the_settings() -> None:
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    kinds = {
        kind["properties"]["kind"]["const"]: set(kind["properties"])
        for kind in schema["$defs"]["connection"]["oneOf"]
    }
    assert kinds == {
        "folder": set(FolderConnection.model_fields),
        "s3": set(S3Connection.model_fields),
    }
    assert schema["properties"]["settings"]["properties"] == chart_schema.settings(), (
        "run `make chart`"
    )
    assert schema["$defs"]["grant"] == chart_schema.grant()


def test_no_secret_can_be_a_value() -> None:
    """What the service itself never shows, the chart takes from a Secret alone."""
    secret = {name for name, field in Settings.model_fields.items() if not field.repr}
    assert secret == {"database_url", "broker_url", "secret_keys"}
    assert secret <= chart_schema.ELSEWHERE
    assert set(Settings.model_fields) >= chart_schema.ELSEWHERE


def test_every_setting_arrives_as_it_was_written(
    everything: Rendered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists, maps and large numbers, through a ConfigMap into the service."""
    values = yaml.safe_load(EVERYTHING.read_text())
    assert set(values["settings"]) == set(chart_schema.settings()), "every one is tried"
    (config,) = everything.of("ConfigMap")
    for name, value in config["data"].items():
        monkeypatch.setenv(name, value)
    expected = {name: value for name, value in values["settings"].items() if value != "none"} | {
        "connections": values["connections"],
        "credentials": values["grants"],
    }
    settings = Settings.load()
    assert settings.model_dump(include=set(expected)) == Settings(**expected).model_dump(
        include=set(expected)
    )
    assert settings.quota_queued_jobs is None
    assert settings.quota_bytes_per_day == 2_000_000_000_000
    assert settings.egress_allow == tuple(values["settings"]["egress_allow"])
    assert settings.metrics_port == values["metrics"]["port"]
    assert config["data"]["OTEL_TRACES_SAMPLER_ARG"] == "0.25"


def test_the_port_of_metrics_is_the_one_that_is_looked_at(everything: Rendered) -> None:
    (config,) = everything.of("ConfigMap")
    for component in ("api", "worker"):
        spec = everything.named("Deployment", component)["spec"]["template"]["spec"]
        ports = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
        assert str(ports["metrics"]) == config["data"]["ARROWQUANT_METRICS_PORT"]
    (monitor,) = everything.of("PodMonitor")
    assert [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_the_chart_is_the_version_of_the_service(root: Path) -> None:
    import tomllib

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def _bytes(quantity: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([KMG]i)B?", quantity).groups()  # type: ignore[union-attr]
    return float(number) * {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]
