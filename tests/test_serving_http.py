"""`hotstream serve` answers by the Open Inference Protocol: requests byte for byte, and NVIDIA's client."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp.test_utils import TestClient, TestServer
from click.testing import CliRunner
from serving_site import KEYS, Site, caught_up, hot_keys
from trainer_batches import NUM_FIELDS, click_batch

from streams.dashboard.access import Access
from streams.dashboard.site import listening
from trainer.commands.serve import command
from trainer.serving.predictor import Predictor
from trainer.serving.replica import Replica
from trainer.serving.replica_state import ReplicaState
from trainer.serving.server import InferenceServer

DENSE = click_batch(64, 0).dense
URL = "/v2/models/hotstream"
HEADER = "Inference-Header-Content-Length"
Client = TestClient[Any, Any]


@pytest.fixture(scope="module")
def site() -> Site:
    site = Site(hot_store="int8", row_format="int8")
    site.move(hot_keys(30))
    site.train(2)
    site.settle()
    return site


@pytest.fixture(scope="module")
def replica(site: Site) -> Replica:
    return caught_up(site.broker)


def expected(site: Site) -> np.ndarray:
    with torch.no_grad():
        logits = site.model(torch.from_numpy(DENSE), torch.from_numpy(site.vectors()))
        return torch.sigmoid(logits.double()).float().numpy()


def run(predictor: Predictor, test: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        token = options.pop("token", None)
        server = InferenceServer(predictor, "hotstream", Access("127.0.0.1", token), **options)
        async with TestClient(TestServer(server.app)) as client:
            await test(client)

    asyncio.run(asyncio.wait_for(whole(), 60))


def inputs_as_json() -> list[dict[str, Any]]:
    return [
        {"name": "dense", "datatype": "FP32", "shape": list(DENSE.shape), "data": DENSE.tolist()},
        {"name": "keys", "datatype": "UINT64", "shape": list(KEYS.shape), "data": KEYS.reshape(-1).tolist()},
    ]


def binary_body(outputs: list[dict[str, Any]]) -> tuple[bytes, str]:
    tensors = [("dense", "FP32", DENSE), ("keys", "UINT64", KEYS)]
    described = [
        {"name": name, "datatype": kind, "shape": list(one.shape), "parameters": {"binary_data_size": one.nbytes}}
        for name, kind, one in tensors
    ]
    text = json.dumps({"id": "7", "inputs": described, "outputs": outputs}).encode()
    return text + b"".join(one.tobytes() for _, _, one in tensors), str(len(text))


def test_the_server_and_its_model_describe_themselves(replica: Replica) -> None:
    async def test(client: Client) -> None:
        content = await (await client.get("/v2")).json()
        assert (content["name"], content["extensions"]) == ("hotstream", ["binary_tensor_data"])
        for path in ("/v2/health/live", "/v2/health/ready", f"{URL}/ready", f"{URL}/versions/1/ready"):
            assert (await client.get(path)).status == 200
        about = await (await client.get(URL)).json()
        assert about["inputs"][1] == {"name": "keys", "datatype": "UINT64", "shape": [-1, NUM_FIELDS]}
        assert [one["name"] for one in about["outputs"]] == ["probability", "vectors"]

    run(replica, test)


def test_json_and_binary_requests_get_the_trainers_predictions(site: Site, replica: Replica) -> None:
    async def test(client: Client) -> None:
        answer = await client.post(f"{URL}/infer", json={"id": "a", "inputs": inputs_as_json()})
        assert answer.status == 200, await answer.text()
        content = await answer.json()
        assert (content["model_name"], content["model_version"], content["id"]) == ("hotstream", "1", "a")
        assert content["parameters"]["step"] == 2
        (one,) = content["outputs"]
        assert (one["name"], one["datatype"], one["shape"]) == ("probability", "FP32", [64])
        np.testing.assert_array_equal(np.array(one["data"], np.float32), expected(site))
        body, size = binary_body([
            {"name": "vectors", "parameters": {"binary_data": True}},
            {"name": "probability", "parameters": {"binary_data": True}},
        ])  # fmt: skip
        for data, headers in ((body, {}), (gzip.compress(body), {"Content-Encoding": "gzip"})):
            answer = await client.post(f"{URL}/infer", data=data, headers={HEADER: size, **headers})
            content = await answer.read()
            length = int(answer.headers[HEADER])
            assert json.loads(content[:length])["id"] == "7"
            vectors = np.frombuffer(content[length : length + 4 * KEYS.size * 8], "<f4").reshape(*KEYS.shape, 8)
            np.testing.assert_array_equal(vectors, site.vectors())
            np.testing.assert_array_equal(np.frombuffer(content[length + vectors.nbytes :], "<f4"), expected(site))

    run(replica, test)


def bags() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, offsets and weights of one to three values in each field, of the keys of that field."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 4, KEYS.size)
    columns = np.repeat(np.arange(KEYS.size) % NUM_FIELDS, counts)
    keys = KEYS[rng.integers(0, len(KEYS), len(columns)), columns]
    return keys, np.cumsum(counts) - counts, rng.uniform(-1, 2, len(keys)).astype(np.float32)


def bag_inputs(is_weighted: bool = True, **changed: list[Any]) -> list[dict[str, Any]]:
    listed = [("keys", "UINT64", bags()[0]), ("offsets", "INT64", bags()[1]), ("weights", "FP32", bags()[2])]
    described = [
        {
            "name": name,
            "datatype": kind,
            "shape": [len(changed.get(name, one))],
            "data": changed.get(name, one.tolist()),
        }
        for name, kind, one in listed[: 2 + is_weighted]
    ]
    return [inputs_as_json()[0], *described]


def test_fields_of_several_values_are_asked_for_with_offsets_and_weights(replica: Replica) -> None:
    keys, offsets, weights = bags()

    async def test(client: Client) -> None:
        for factors in (weights, None):
            logits = replica.predict(DENSE, keys, offsets, factors)
            asked = {
                "inputs": bag_inputs(factors is not None),
                "outputs": [{"name": "vectors"}, {"name": "probability"}],
            }
            answer = await client.post(f"{URL}/infer", json=asked)
            assert answer.status == 200, await answer.text()
            vectors, probability = (await answer.json())["outputs"]
            assert vectors["shape"] == [*KEYS.shape, 8]
            found = np.array(probability["data"], np.float32)
            np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), rtol=1e-6)
        end = offsets[-NUM_FIELDS]
        shorter = bag_inputs(
            keys=keys[:end].tolist(), offsets=offsets[:-NUM_FIELDS].tolist(), weights=weights[:end].tolist()
        )
        wrong = [
            (bag_inputs(offsets=[1, *offsets[1:].tolist()]), "expected a bag of one or more keys for each row"),
            (shorter, "offsets.shape: got 63 rows of bags, expected 64"),
            (
                bag_inputs(keys=keys[::-1].tolist()),
                "keys: index 0: got a key of field 4, expected field 1",
            ),
            ([*bag_inputs()[:2], bag_inputs()[3]], "inputs: offsets is missing"),
            (
                [*bag_inputs()[:3], {**bag_inputs()[3], "shape": [2], "data": [1, 2]}],
                "finite numbers, one for each key",
            ),
            ([*inputs_as_json(), bag_inputs()[2]], "keys.shape and offsets.shape: got [64, 4]"),
        ]
        for inputs, reason in wrong:
            answer = await client.post(f"{URL}/infer", json={"inputs": inputs})
            content = await answer.json()
            assert (answer.status, reason in content["error"]) == (400, True), content

    run(replica, test)


def changed(number: int, **members: Any) -> dict[str, Any]:
    listed = inputs_as_json()
    listed[number] = {name: one for name, one in {**listed[number], **members}.items() if one is not None}
    return {"inputs": listed}


BAD: list[tuple[Any, str]] = [
    (b"{", "body: got"),
    (b"[" * 100_000, "body: got"),
    ([], "body: got [], expected a JSON object"),
    ({}, "inputs: got None, expected a list"),
    ({"inputs": []}, "inputs: keys is missing"),
    ({"inputs": inputs_as_json()[:1]}, "inputs: keys is missing"),
    ({"inputs": inputs_as_json()[1:]}, "inputs: dense is missing"),
    ({"inputs": inputs_as_json() * 2}, "inputs[2]: 'dense' is there twice"),
    ({"inputs": [1]}, "inputs[0]: got 1, expected a JSON object"),
    ({"inputs": inputs_as_json(), "outputs": [{"name": "logit"}]}, "outputs: got 'logit'"),
    ({"inputs": inputs_as_json(), "id": 3}, "id: got 3, expected a string"),
    (changed(0, name="numbers"), "inputs: got 'numbers', expected dense and keys"),
    (changed(0, datatype="FP64"), "dense.datatype: got 'FP64'"),
    (changed(0, datatype="UINT64", data=[1] * 128), "dense.datatype: expected FP32"),
    (changed(0, shape=[128]), "dense.shape: got [128], expected [B, 2]"),
    (changed(0, shape=[-1, 2]), "dense.shape: got [-1, 2]"),
    (changed(0, shape=[64, 3]), "dense.data: got 128 numbers, expected 192"),
    (changed(0, data=None), "dense.data: got None, expected a list"),
    (changed(0, data=[["x"] * 2] * 64), "dense.data: got 'x'"),
    (changed(0, data=[[1, 2], [3]]), "dense.data: got"),
    (changed(0, parameters={"binary_data_size": 5}), "dense.binary_data_size: got 5, expected 512"),
    (changed(0, parameters={"binary_data_size": 512}, data=None), "dense: got 0 bytes after the JSON, expected 512"),
    (changed(0, parameters={"shared_memory_region": "x"}), "shared_memory_region is not supported"),
    (changed(1, data=[1.5] * KEYS.size), "keys.data: got 1.5"),
    (changed(1, data=[-1] * KEYS.size), "keys.data: a number is out of the range of UINT64"),
    (changed(1, data=[1 << 64] * KEYS.size), "keys.data: a number is out of the range of UINT64"),
    (changed(1, data=[7] * KEYS.size), "keys: row 0, column 0: got a key of field 0, expected field 1 (f0)"),
    (changed(1, shape=[128, 2]), "keys.shape: got [128, 2], expected [64, 4]"),
]  # fmt: skip


def test_malformed_requests_are_400_and_name_the_member(replica: Replica) -> None:
    async def test(client: Client) -> None:
        for body, reason in BAD:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = await client.post(f"{URL}/infer", data=data)
            content = await answer.json()
            assert answer.status == 400, (reason, content)
            assert reason in content["error"], (reason, content)
        for size in ("x", "-1", "9999999"):
            answer = await client.post(f"{URL}/infer", data=b"{}", headers={HEADER: size})
            assert (answer.status, HEADER in (await answer.json())["error"]) == (400, True)
        body, size = binary_body([])
        answer = await client.post(f"{URL}/infer", data=body + b"x", headers={HEADER: size})
        assert (answer.status, await answer.json()) == (400, {"error": "body: 1 bytes are left over after the tensors"})
        for path in ("/v2/models/other", f"{URL}/versions/2"):
            assert (await client.get(path)).status == 404
        assert (await client.post("/v2/models/other/infer")).status == 404
        assert (await client.get(f"{URL}/infer")).status == 405
        figures = await (await client.get("/metrics")).text()
        assert f'hotstream_serve_requests_total{{status="400"}} {len(BAD) + 4}.0' in figures
        assert 'hotstream_replica_lookups_total{field="f0",tier="hot"}' in figures

    run(replica, test)


def test_a_request_that_is_too_large_is_413(replica: Replica) -> None:
    async def test(client: Client) -> None:
        for data, headers in ((bytes(5000), {}), (gzip.compress(bytes(100_000)), {"Content-Encoding": "gzip"})):
            answer = await client.post(f"{URL}/infer", data=data, headers=headers)
            assert (answer.status, "error" in await answer.json()) == (413, True)

    run(replica, test, max_bytes=1024)


def test_a_model_that_is_not_complete_is_alive_and_not_ready() -> None:
    async def test(client: Client) -> None:
        assert (await client.get("/v2/health/live")).status == 200
        for path in ("/v2/health/ready", f"{URL}/ready", URL):
            answer = await client.get(path)
            assert (answer.status, "no complete model" in (await answer.json())["error"]) == (503, True)
        assert (await client.post(f"{URL}/infer", json={"inputs": inputs_as_json()})).status == 503

    run(Predictor(ReplicaState(1), "topic"), test)


def test_other_machines_need_the_token(replica: Replica) -> None:
    async def test(client: Client) -> None:
        assert (await client.get("/v2/health/ready")).status == 401
        headers = {"Authorization": "Bearer 0123456789abcdef"}
        assert (await client.get("/v2/health/ready", headers=headers)).status == 200

    run(replica, test, token="0123456789abcdef")


def test_an_export_alone_needs_a_directory_and_no_broker(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["--offline"])
    assert (done.exit_code, "expected --export DIR" in done.output) == (2, True)
    done = CliRunner().invoke(command, ["--offline", "--export", str(tmp_path)])
    assert "expected an export" in str(done.exception)


# ---- NVIDIA's client -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(predictor: Predictor) -> Any:
    server = InferenceServer(predictor, "hotstream", Access("127.0.0.1", None))
    async with listening(server.app, host="127.0.0.1", port=0) as url:
        yield url.removeprefix("http://").rstrip("/")


@contextmanager
def triton_client(url: str) -> Iterator[Any]:
    http = pytest.importorskip("tritonclient.http", reason="needs NVIDIA's client: pip install 'tritonclient[http]'")
    client = http.InferenceServerClient(url)
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "JSON"])
def test_nvidias_client_reads_the_trainers_predictions(site: Site, replica: Replica, is_binary: bool) -> None:
    http = pytest.importorskip("tritonclient.http", reason="needs NVIDIA's client: pip install 'tritonclient[http]'")

    def ask(url: str) -> None:
        with triton_client(url) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("hotstream")
            assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
            assert client.get_model_metadata("hotstream")["inputs"][0]["name"] == "dense"
            tensors = [http.InferInput("dense", DENSE.shape, "FP32"), http.InferInput("keys", KEYS.shape, "UINT64")]
            for tensor, data in zip(tensors, (DENSE, KEYS), strict=True):
                tensor.set_data_from_numpy(data, binary_data=is_binary)
            wanted = [http.InferRequestedOutput(name, binary_data=is_binary) for name in ("probability", "vectors")]
            for compression in (None, "gzip", "deflate"):
                found = client.infer("hotstream", tensors, outputs=wanted, request_id="9",
                                     request_compression_algorithm=compression)  # fmt: skip
                assert found.get_response()["id"] == "9"
                np.testing.assert_array_equal(found.as_numpy("probability"), expected(site))
                np.testing.assert_array_equal(found.as_numpy("vectors"), site.vectors())
            assert client.infer("hotstream", tensors).as_numpy("probability").shape == (64,)
            with pytest.raises(http.InferenceServerException, match="expected 'hotstream'"):
                client.infer("other", tensors)

    async def whole() -> None:
        async with serving(replica) as url:
            await asyncio.to_thread(ask, url)

    asyncio.run(whole())
