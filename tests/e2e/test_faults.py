"""Real faults: killed workers, a dead broker, a hung store, a job cancelled half-way.

Whatever happens, the job ends as it should and its bytes are those of an undisturbed run.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, text

import arrowquant
from service.domain.job import JobState
from tests import weights
from tests.client import calibrations
from tests.e2e.deployment import Deployment, Worker
from tests.servers import RedisServer, S3Server
from tests.workers.runs import begin, close_all, digests, finish

KILLS = 10
UNITS = 16
RECIPE = {"bits": 4, "group_size": 64}
BODY = {
    "source": {"connection": "models", "prefix": "in/"},
    "output": {"connection": "artifacts", "prefix": "out/"},
    "recipe": RECIPE,
    "limits": {"threads": 1},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 MiB in 16 units, one tensor of them over five units."""
    shapes = {"embed_tokens.weight": (40960, 1024)}
    shapes |= {f"blocks.{i}.mlp.fc1.weight": (4096, 1024) for i in range(22)}
    return weights.write(
        tmp_path_factory.mktemp("model") / "model.safetensors",
        {
            name: weights.bfloat16(weights.gaussian(shape, seed))
            for seed, (name, shape) in enumerate(shapes.items())
        },
    )


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the parts that a quiet run makes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = finish(begin(folder, model, folder / "out", **RECIPE))
    assert job.state is JobState.SUCCEEDED
    assert job.progress.units_total == UNITS
    close_all()
    return _parts_only(digests(folder / "out"))


def _calibration(path: Path) -> Path:
    """Of some layers, whose inputs change with time; sensitivities of two."""
    names = [f"blocks.{number}.mlp.fc1.weight" for number in range(8)]
    rng = np.random.default_rng(1)
    scale = np.geomspace(0.1, 10, 1024, dtype=np.float32)
    seeds = range(1, 9)  # as in the fixture
    bound = {
        name: weights.bfloat16(weights.gaussian((4096, 1024), seed))[1].tobytes()
        for seed, name in zip(seeds, names, strict=True)
    }
    calibrations.write(
        path,
        {name: rng.normal(size=(64, 1024)).astype(np.float32) * scale for name in names},
        weights=bound,
        times=np.linspace(0, 999, 64),
        sensitive={names[0]: (3.0, 2), names[1]: (0.02, 2)},
    )
    return path


def _parts_only(files: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if name.endswith(".arrow")}


def _published(client: arrowquant.Client, job_id: str, folder: Path) -> dict[str, str]:
    client.download(job_id, folder)
    with arrowquant.open(folder) as artifact:
        assert artifact.verify().ok
    return _parts_only(digests(folder))


def _cancelled(client: arrowquant.Client, job_id: str, seconds: float) -> bool:
    with pytest.raises(arrowquant.JobFailed):
        client.wait(job_id, timeout=seconds)
    return bool(client.get(job_id)["state"] == "CANCELLED")


def _claims(workers: list[Worker]) -> int:
    return sum(worker.events("quantize:").count("unit_claimed") for worker in workers)


@pytest.mark.parametrize("calibrated", [False, True], ids=["weights", "outputs"])
def test_a_worker_killed_while_it_measures(
    deploy: Callable[..., Deployment],
    s3_server: S3Server,
    s3_bucket: str,
    model: Path,
    tmp_path: Path,
    calibrated: bool,
) -> None:
    """SIGKILL while a budget is analyzed: the same widths and bytes as of a quiet run, by the errors of
    weights, or of outputs where there is a calibration file."""
    ways = [{"bits": 2}, {"bits": 4}]
    budget = {"bits_per_weight": 4.0, "candidates": ways}
    recipe: dict[str, Any] = {"group_size": 64, "budget": budget}
    file = _calibration(tmp_path / "c.arrow") if calibrated else None
    s3_server.client().upload_file(str(model), s3_bucket, "in/model.safetensors")
    if file is not None:
        s3_server.client().upload_file(str(file), s3_bucket, "calib/c.arrow")
        named = {"calibration": {"connection": "models", "key": "calib/c.arrow"}}
    deployment = deploy()
    [worker] = deployment.workers
    with deployment.client() as client:
        job = client.submit(BODY | {"recipe": recipe | (named if calibrated else {})})
        for kills in range(2):
            end = time.monotonic() + 120
            while worker.events("analyze:").count("unit_claimed") <= 3 * kills:
                assert time.monotonic() < end
                time.sleep(0.02)
            worker.kill()
            assert client.get(job["id"])["phase"] == "ANALYZING"
            worker.start()
        quiet = begin(tmp_path, model, tmp_path / "quiet", measured=file, **recipe)
        assert finish(quiet).state is JobState.SUCCEEDED
        done = client.wait(job["id"], timeout=240)
        assert done["state"] == "SUCCEEDED"
        found = _published(client, job["id"], tmp_path / "artifact")
        assert found == _parts_only(digests(tmp_path / "quiet"))
        made = done["resolved"]["allocations"][0]["choice"]
        assert len(set(made.values())) == 2
    close_all()


def test_a_worker_killed_ten_times(
    deploy: Callable[..., Deployment],
    s3_server: S3Server,
    s3_bucket: str,
    model: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
) -> None:
    """SIGKILL at random moments after a claim: at most the unit in hand is done again."""
    s3 = s3_server.client()
    s3.upload_file(str(model), s3_bucket, "in/model.safetensors")
    deployment = deploy()
    [worker] = deployment.workers
    chance = random.Random(7)
    with deployment.client() as client:
        claimed = worker.events().count("unit_claimed")
        job = client.submit(BODY)
        for _ in range(KILLS):
            worker.wait_for_more("unit_claimed", claimed)
            time.sleep(chance.uniform(0, 0.4))
            worker.kill()
            assert client.get(job["id"])["state"] == "RUNNING", "the job ended before ten kills"
            claimed = worker.events().count("unit_claimed")
            worker.start()
        assert client.wait(job["id"], timeout=120)["state"] == "SUCCEEDED"
        assert _published(client, job["id"], tmp_path / "artifact") == undisturbed
    assert _claims(deployment.workers) <= UNITS + KILLS
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=s3_bucket)


def test_two_workers_share_a_job(
    deploy: Callable[..., Deployment],
    s3_server: S3Server,
    s3_bucket: str,
    model: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
) -> None:
    """Both do some of it, nothing is done twice, and the bytes are the same."""
    s3_server.client().upload_file(str(model), s3_bucket, "in/model.safetensors")
    deployment = deploy(workers=2)
    with deployment.client() as client:
        job = client.submit(BODY)
        assert client.wait(job["id"], timeout=120)["state"] == "SUCCEEDED"
        assert _published(client, job["id"], tmp_path / "artifact") == undisturbed
    done = [worker.events("quantize:").count("unit_done") for worker in deployment.workers]
    assert sum(done) == UNITS
    assert min(done) >= 2, done


def test_a_worker_told_to_stop_finishes_its_unit(
    deploy: Callable[..., Deployment], s3_server: S3Server, s3_bucket: str, model: Path
) -> None:
    """SIGTERM in the middle of a job, and another start: no unit is begun twice."""
    s3_server.client().upload_file(str(model), s3_bucket, "in/model.safetensors")
    deployment = deploy()
    [worker] = deployment.workers
    with deployment.client() as client:
        job = client.submit(BODY)
        worker.wait_for_more("unit_claimed", 2)
        asked = time.monotonic()
        worker.stop()
        assert time.monotonic() - asked < 10
        assert client.get(job["id"])["state"] == "RUNNING"
        worker.start()
        assert client.wait(job["id"], timeout=120)["state"] == "SUCCEEDED"
    assert _claims(deployment.workers) == UNITS


def test_cancel_takes_effect_in_five_seconds(
    deploy: Callable[..., Deployment], s3_server: S3Server, s3_bucket: str, model: Path
) -> None:
    """Nothing is left in the output: no upload, no part. A retry makes all of it again."""
    s3 = s3_server.client()
    s3.upload_file(str(model), s3_bucket, "in/model.safetensors")
    deployment = deploy()
    [worker] = deployment.workers
    with deployment.client() as client:
        job = client.submit(BODY)
        while worker.events("quantize:").count("unit_claimed") < 3:
            time.sleep(0.01)
        asked = time.monotonic()
        client.cancel(job["id"])
        assert _cancelled(client, job["id"], 20)
        assert time.monotonic() - asked < 5
        assert "Uploads" not in s3.list_multipart_uploads(Bucket=s3_bucket)
        assert "Contents" not in s3.list_objects_v2(Bucket=s3_bucket, Prefix="out/")
        client.retry(job["id"])
        assert client.wait(job["id"], timeout=120)["state"] == "SUCCEEDED"


def test_a_cancelled_unit_does_not_linger(
    deploy: Callable[..., Deployment], own_s3: S3Server, model: Path, tmp_path: Path
) -> None:
    """Cancelled while the store hangs: the job is CANCELLED as soon as the store is back."""
    bucket = own_s3.make_bucket()
    own_s3.client().upload_file(str(model), bucket, "in/model.safetensors")
    from tests.e2e.deployment import s3_connections

    deployment = deploy(**s3_connections(own_s3, {"models": bucket, "artifacts": bucket}))
    [worker] = deployment.workers
    with deployment.client() as client:
        job = client.submit(BODY)
        while worker.events("quantize:").count("unit_claimed") < 2:
            time.sleep(0.01)
        own_s3.pause()
        client.cancel(job["id"])
        assert client.get(job["id"])["state"] == "CANCELLING"
        own_s3.resume()
        assert _cancelled(client, job["id"], 30)
    assert "Uploads" not in own_s3.client().list_multipart_uploads(Bucket=bucket)


def test_the_broker_is_only_a_bell(
    deploy: Callable[..., Deployment],
    own_redis: RedisServer,
    s3_server: S3Server,
    s3_bucket: str,
    model: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
) -> None:
    """Killed with a job under way and one accepted while it is down: both end well."""
    s3_server.client().upload_file(str(model), s3_bucket, "in/model.safetensors")
    deployment = deploy(ARROWQUANT_BROKER_URL=own_redis.url)
    [worker] = deployment.workers
    with deployment.client() as client:
        first = client.submit(BODY)
        while worker.events("quantize:").count("unit_claimed") < 2:
            time.sleep(0.01)
        own_redis.kill()
        began = time.monotonic()
        second = client.submit(BODY | {"output": {"connection": "artifacts", "prefix": "two/"}})
        assert time.monotonic() - began < 5
        own_redis.start()
        for job in (first, second):
            assert client.wait(job["id"], timeout=120)["state"] == "SUCCEEDED"
            assert _published(client, job["id"], tmp_path / job["id"]) == undisturbed


def test_a_unit_is_finished_once(
    deploy: Callable[..., Deployment],
    production_environment: dict[str, str],
    s3_server: S3Server,
    s3_bucket: str,
    model: Path,
) -> None:
    """One of two workers freezes with a unit in hand, loses the lease, and wakes up too late."""
    s3_server.client().upload_file(str(model), s3_bucket, "in/model.safetensors")
    deployment = deploy(workers=2, ARROWQUANT_LEASE_S="3", ARROWQUANT_HEARTBEAT_S="0.5")
    sleeper = deployment.workers[0]
    with deployment.client() as client:
        job = client.submit(BODY)
        while sleeper.events("quantize:").count("unit_claimed") < 1:
            time.sleep(0.005)
        _freeze(sleeper)
        final = client.wait(job["id"], timeout=120)
        sleeper.resume()
        assert final["state"] == "SUCCEEDED"
        time.sleep(1.5)
        assert client.get(job["id"])["state"] == "SUCCEEDED"
    engine = create_engine(production_environment["ARROWQUANT_DATABASE_URL"])
    with engine.connect() as connection:
        rows = connection.execute(text("select type, data from events order by seq")).all()
    engine.dispose()
    kinds: Counter[Any] = Counter(row.type for row in rows)
    assert kinds["done"] <= 1
    names = [row.data["name"] for row in rows if row.type == "tensor"]
    assert len(names) == len(set(names))


def _freeze(worker: Worker) -> None:
    """Stop the parent and its pool process."""
    worker.pause()
