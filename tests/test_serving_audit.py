"""`hotstream audit` finds a row that was corrupted, tells it from one that is old, and names both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from serving_site import Site, caught_up, hot_keys
from test_process_checkpoint import drive, run_config

from streams.dashboard.access import Access
from streams.dashboard.site import listening
from trainer.commands.audit import command
from trainer.errors import ReplicaError
from trainer.process.run import TrainingRun
from trainer.serving.audit import Answer, LocalSource, audit, sample_keys
from trainer.serving.endpoint import EndpointSource
from trainer.serving.export import export
from trainer.serving.export_files import MANIFEST, sign
from trainer.serving.predictor import Predictor
from trainer.serving.replica import Replica
from trainer.serving.server import InferenceServer


@pytest.fixture(scope="module")
def site() -> Site:
    site = Site(hot_store="int8", row_format="int8")
    site.move(hot_keys(30))
    site.train(2)
    site.settle()
    return site


def local(replica: Replica) -> LocalSource:
    return LocalSource(replica, replica.catch_up)


def corrupt(predictor: Predictor, row: int) -> None:
    predictor.tables.unique.values[row, 3] ^= 1  # one step of int8


def test_equal_models_have_no_differences_and_a_row_that_was_corrupted_is_found(site: Site) -> None:
    served, trained = caught_up(site.broker), caught_up(site.broker)
    keys = sample_keys(trained, 200, 0)
    assert np.isin(np.array(list(hot_keys(30)), np.uint64), keys).all()
    found = audit(local(served), local(trained), keys)
    assert (found.num_keys, found.num_hot, found.num_equal, found.differences) == (200, 30, 200, ())
    assert (found.served_step, found.trained_step, found.behind_ms) == (2, 2, 0)
    key, row = next(iter(served.owners().items()))
    corrupt(served, row)
    found = audit(local(served), local(trained), keys)
    assert (found.num_corrupt, found.num_equal) == (1, 199)
    (one,) = found.differences
    assert (one.tier, one.is_stale, one.quanta) == ("hot", False, 1.0)
    assert one.feature.endswith(f"{key & ((1 << 56) - 1):014x}")


def test_what_is_served_of_an_earlier_step_is_stale(site: Site) -> None:
    old, trained = caught_up(site.broker), caught_up(site.broker)
    served = LocalSource(old)  # does not go on
    site.train()
    site.settle()
    found = audit(served, local(trained), sample_keys(trained, 100, 0))
    assert (found.num_corrupt, found.served_step, found.trained_step) == (0, 2, 3)
    assert len(found.differences) > 0
    assert all(one.is_stale for one in found.differences)
    assert found.behind_ms is not None


class Moving:
    """A server beside a trainer that goes on: it answers a step later than it was asked for."""

    name = "moving"

    def __init__(self, site: Site) -> None:
        self._site, self._replica = site, caught_up(site.broker)

    def ask(self, keys: np.ndarray) -> Answer:
        self._site.train()
        self._site.settle()
        return local(self._replica).ask(keys)


def test_a_trainer_that_goes_on_while_it_is_audited_is_no_difference(site: Site) -> None:
    trained = caught_up(site.broker)
    found = audit(Moving(site), local(trained), sample_keys(trained, 100, 0))
    assert found.differences == ()


def test_a_model_of_another_size_is_refused(site: Site) -> None:
    trained = caught_up(site.broker)

    class Narrow(LocalSource):
        def ask(self, keys: np.ndarray) -> Answer:
            answer = super().ask(keys)
            return replace(answer, vectors=answer.vectors[:, :4])

    with pytest.raises(ReplicaError, match=r"got vectors of shape \(10, 4\), expected \(10, 8\): another model"):
        audit(Narrow(trained), local(trained), sample_keys(trained, 10, 0))


def test_an_endpoint_is_audited_over_http(site: Site) -> None:
    served, trained = caught_up(site.broker), caught_up(site.broker)
    corrupt(served, next(iter(served.owners().values())))
    server = InferenceServer(served, "hotstream", Access("127.0.0.1", "0123456789abcdef"))

    async def whole() -> Sequence[Any]:
        async with listening(server.app, host="127.0.0.1", port=0) as url:
            source = EndpointSource(url, token="0123456789abcdef")
            found = await asyncio.to_thread(audit, source, local(trained), sample_keys(trained, 100, 0))
            with pytest.raises(ReplicaError, match="got 401 expected the token"):
                await asyncio.to_thread(EndpointSource(url).ask, np.zeros(1, np.uint64))
            other = EndpointSource(url, model="other", token="0123456789abcdef")
            with pytest.raises(ReplicaError, match="expected 'hotstream'"):
                await asyncio.to_thread(other.ask, np.zeros(1, np.uint64))
            return found.num_corrupt, found.num_equal, found.served_step == found.trained_step

    assert asyncio.run(whole()) == (1, 99, True)
    with pytest.raises(ReplicaError, match="no answer"):
        EndpointSource("http://127.0.0.1:9").ask(np.zeros(1, np.uint64))


def invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(command, [str(one) for one in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_an_export_is_audited_against_a_checkpoint(tmp_path: Path) -> None:
    run = drive(TrainingRun(run_config(tmp_path / "run", row_format="int8"), 1), 12)
    run.checkpoint()
    export(run, tmp_path / "out")
    json_path = tmp_path / "audit.json"
    arguments = [tmp_path / "out", "--against", tmp_path / "run", "--keys", 100, "--patience", 0, "--json", json_path]
    code, output = invoke(*arguments)
    assert (code, "100 equal, 0 stale, 0 corrupt" in output) == (0, True), output
    damage(tmp_path / "out")
    code, output = invoke(*arguments)
    assert (code, "vectors are corrupt" in output) == (1, True), output
    report = json.loads(json_path.read_text())
    assert (report["ok"], report["num_corrupt"] > 0) == (False, True)
    assert {one["tier"] for one in report["differences"]} == {"shared"}
    run.close()


def damage(directory: Path) -> None:
    """Changes one bit of a row of level 1, and the checksums with it."""
    from trainer.process.checksums import describe_bytes  # noqa: PLC0415

    path, manifest_path = directory / "rows.safetensors", directory / MANIFEST
    data = bytearray(path.read_bytes())
    size = 8 + int.from_bytes(data[:8], "little")
    start, end = json.loads(data[8:size])["shared.level_1.values"]["data_offsets"]
    data[size + start : size + end] = bytes(one ^ 1 for one in data[size + start : size + end])
    path.write_bytes(data)
    manifest = {**json.loads(manifest_path.read_text()), "xxh3": "0" * 16}
    manifest["files"]["rows.safetensors"] = describe_bytes(bytes(data))
    manifest_path.write_bytes(sign(json.dumps(manifest, indent=2).encode()))


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(tmp_path), "--against", str(tmp_path)])
    assert "got 0 checkpoints, expected an intact one" in str(done.exception)
