"""A compressed export: few bytes, the nearest representation of each row, and the same answers from every reader."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import safetensors.numpy
import torch
from click.testing import CliRunner
from serving_site import KEYS, Site, hot_keys
from test_process_checkpoint import drive, run_config
from trainer_batches import click_batch

from streams.dashboard.access import Access
from streams.dashboard.site import listening
from streams.keys import FIELD_SHIFT
from streams.records import MoreValues
from trainer.commands.audit import command as audit_command
from trainer.commands.export import _batches, _values
from trainer.commands.export import command as export_command
from trainer.errors import CheckpointError, DivergedError, PlanError, ReplicaError
from trainer.evaluate.sources.stream import Stream
from trainer.learning.quality import Quality
from trainer.process.checksums import describe_bytes
from trainer.process.run import TrainingRun
from trainer.serving.audit import Audit, LocalSource, audit, sample_keys
from trainer.serving.compression.codec import Codec, Sample
from trainer.serving.compression.compress import Bytes, Original, compress, write_compressed
from trainer.serving.compression.formats import FORMATS, TABLES, Compressed, unique_groups
from trainer.serving.compression.held_out import measure
from trainer.serving.compression.k_means import nearest
from trainer.serving.compression.reads import count_reads, owned_once
from trainer.serving.compression.rounded import Int4, Int8
from trainer.serving.endpoint import EndpointSource
from trainer.serving.export import export, load_export
from trainer.serving.export_files import MANIFEST, sign
from trainer.serving.exported import Exported
from trainer.serving.predictor import Predictor
from trainer.serving.replica import Replica
from trainer.serving.server import InferenceServer

ROUNDED = ("int8", "int4")


def sample(rows: int = 600, dim: int = 8, groups: int = 3, seed: int = 0) -> Sample:
    """Vectors around a few centres, read with a skew."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, dim))
    vectors = centres[rng.integers(0, 12, rows)] + 0.05 * rng.normal(size=(rows, dim))
    return Sample(
        vectors=vectors.astype(np.float32), weights=rng.random(rows) ** 4 + 1e-3,
        groups=rng.integers(0, groups, rows), num_groups=groups,
    )  # fmt: skip


def decoded(codec: Codec, of: Sample) -> np.ndarray:
    return codec.decode(np.arange(of.num_rows), of.groups)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_codec_keeps_its_bytes_and_its_values_through_its_arrays(name: str) -> None:
    rows, kind = sample(), FORMATS[name]
    least, last = kind.least_bytes(rows), np.inf
    for budget in (least, 2 * least, 4 * least):
        codec = kind.fit(rows, budget)
        assert codec.nbytes <= budget
        vectors = decoded(codec, rows)
        again = kind.load(codec.arrays(), num_rows=600, dim=8, num_groups=3)
        assert np.array_equal(decoded(again, rows), vectors)
        assert np.array_equal(decoded(kind.fit(rows, budget), rows), vectors)  # equal seeds
        some, none = np.array([5, 300, 5]), np.empty(0, np.int64)
        assert codec.decode(none, none, slice(0, 8)).shape == (0, 8)
        assert np.array_equal(codec.decode(some, rows.groups[some], slice(2, 5)), vectors[some, 2:5])
        assert rows.error(vectors) <= last * 1.001
        last = rows.error(vectors)
    with pytest.raises(PlanError, match=f"expected {least} or more"):
        kind.fit(rows, least - 1)


@pytest.mark.parametrize(("kind", "limit"), [(Int8, 127), (Int4, 7)])
def test_a_rounded_value_is_within_half_a_step(kind: type[Codec], limit: int) -> None:
    rows = sample(dim=7)
    error = np.abs(decoded(kind.fit(rows, kind.least_bytes(rows)), rows) - rows.vectors)
    assert (error <= 0.51 * np.abs(rows.vectors).max(axis=1, keepdims=True) / limit).all()
    zeros = replace(rows, vectors=np.zeros_like(rows.vectors))
    assert not decoded(kind.fit(zeros, kind.least_bytes(zeros)), zeros).any()


def test_a_row_reads_the_nearest_centroid_of_its_own_group() -> None:
    rows = sample()
    arrays = (codec := FORMATS["saec"].fit(rows, 600 + 10 * 30 + 16)).arrays()
    starts, scales = arrays["starts"], arrays["centroid_scales"].astype(np.float32)
    centroids = arrays["centroids"] * scales[:, None]
    vectors = decoded(codec, rows)
    for group in range(3):
        mine = rows.groups == group
        own = centroids[starts[group] : starts[group + 1]]
        distances = np.square(rows.vectors[mine, None] - own[None]).sum(axis=2)
        assert np.allclose(np.square(rows.vectors[mine] - vectors[mine]).sum(axis=1), distances.min(axis=1), atol=1e-5)


def test_a_piece_of_a_row_is_the_nearest_of_its_book() -> None:
    rows = sample()
    arrays = FORMATS["pq"].fit(rows, 600 * 4 + 16 * 40).arrays()
    width = 8 // arrays["codes"].shape[1]
    for part, book in enumerate(arrays["books"].astype(np.float32)):
        pieces = rows.vectors[:, part * width : (part + 1) * width]
        found = np.square(pieces - book[arrays["codes"][:, part]]).sum(axis=1)
        assert np.allclose(found, np.square(pieces - book[nearest(pieces, book)]).sum(axis=1), atol=1e-5)


def test_rows_that_are_read_more_are_closer() -> None:
    rows = sample()
    loved = rows.groups == 1
    for name in ("pq", "low-rank"):
        budget = FORMATS[name].least_bytes(rows) + 100
        weighed = FORMATS[name].fit(replace(rows, weights=np.where(loved, 1.0, 0.0)), budget)
        equal = FORMATS[name].fit(replace(rows, weights=np.ones(600)), budget)
        errors = [np.square(decoded(one, rows) - rows.vectors)[loved].sum() for one in (weighed, equal)]
        assert errors[0] < errors[1], name


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the export `out`."""
    folder = tmp_path_factory.mktemp("exports")
    export(drive(TrainingRun(run_config(None, row_format="int8"), 1), 12), folder / "out")
    return folder


def made(folder: Path, name: str, ratio: float | None = None) -> tuple[Original, Path]:
    original, target = Original.read(folder / "out"), folder / f"{name}-{ratio}"
    write_compressed(target, original, name, compress(original, name, ratio))
    return original, target


@pytest.mark.parametrize(("name", "ratio"), [("saec", 1.5), ("pq", 1.5), ("low-rank", 1.5), ("int4", None)])
def test_every_reader_of_a_compressed_export_gives_the_same_vectors(
    exports: Path, name: str, ratio: float | None
) -> None:
    original, target = made(exports, name, ratio)
    written = Exported.read(target)
    size = sum(array.nbytes for array in written.rows.values())
    assert size <= original.nbytes / (ratio or 1)
    batch = click_batch(64, 99)
    numpy_side = Predictor.of_export(target)
    model, embedding, manifest = load_export(target)
    vectors = numpy_side.lookup(batch.keys)
    with torch.no_grad():
        torch_side = embedding(torch.from_numpy(batch.keys.view(np.int64)))
        assert np.array_equal(torch_side.numpy(), vectors)
        logits = model(torch.from_numpy(batch.dense), torch_side).numpy()
    assert np.allclose(numpy_side.predict(batch.dense, batch.keys), logits, atol=1e-6)
    assert np.array_equal(numpy_side.lookup(batch.keys[3]), vectors[3])  # whatever it is looked up with
    before = Predictor.of(original.exported, "before")
    assert numpy_side.owners() == before.owners()
    assert 0 < np.abs(vectors - before.lookup(batch.keys)).mean() < 0.5 * np.abs(vectors).mean()
    assert (manifest["version"], manifest["compression"], manifest["published"]) == (7, name, None)
    assert (numpy_side.as_of()["step"], numpy_side.verify()) == (before.as_of()["step"], [None])


def test_a_compressed_export_is_audited_and_cannot_be_continued_or_compressed_again(exports: Path) -> None:
    _, target = made(exports, "pq", 1.4)
    served, trained = Predictor.of_export(target), Predictor.of_export(target)
    found = audit(LocalSource(served), LocalSource(trained), sample_keys(trained, 200, 0))
    assert (found.num_equal, found.num_keys) == (200, 200)
    done = CliRunner().invoke(audit_command, [str(target), "--against", str(exports / "out"), "--patience", "0"])
    assert (done.exit_code, "vectors are corrupt" in done.output) == (1, True)  # it is not what was trained
    with pytest.raises(ReplicaError, match="cannot be continued"):
        served.tables.apply([])
    with pytest.raises(CheckpointError, match="compressed already"):
        Original.read(target)


def test_a_compressed_export_is_served_over_http_and_audited_there(exports: Path) -> None:
    _, target = made(exports, "saec", 1.4)
    server = InferenceServer(Predictor.of_export(target), "hotstream", Access("127.0.0.1", None))
    trained = Predictor.of_export(target)

    async def audited() -> Audit:
        async with listening(server.app, host="127.0.0.1", port=0) as url:
            keys = sample_keys(trained, 200, 0)
            return await asyncio.to_thread(audit, EndpointSource(url), LocalSource(trained), keys)

    found = asyncio.run(audited())
    assert (found.num_equal, found.num_hot > 0, found.served_step == found.trained_step) == (200, True, True)


def test_a_replica_serves_a_compressed_export_until_the_topic_has_a_model(exports: Path) -> None:
    _, target = made(exports, "pq", 1.4)
    site = Site()
    site.move(hot_keys(20))
    site.train()
    site.settle()
    replica = Replica(site.broker, export=target)
    assert np.array_equal(replica.lookup(KEYS), Predictor.of_export(target).lookup(KEYS))
    replica.catch_up()
    assert np.array_equal(replica.lookup(KEYS), site.vectors())
    assert replica.verify() == [True] * len(replica.state.partitions)
    replica.close()


@pytest.mark.parametrize("formats", [("bfloat16", None), ("float32", "half_width"), ("int8", "int4")])
def test_an_export_of_any_store_can_be_compressed(tmp_path: Path, formats: tuple[str, str | None]) -> None:
    config = run_config(None, row_format=formats[0])
    config = replace(config, model=replace(config.model, hot_store=formats[1]))
    export(drive(TrainingRun(config, 1), 12), tmp_path / "out")
    original, target = made(tmp_path, "int8")
    keys = click_batch(64, 99).keys
    before, after = (one.lookup(keys) for one in (Predictor.of(original.exported, "out"), Predictor.of_export(target)))
    assert np.abs(after - before).max() <= 0.02 * np.abs(before).max()


def test_all_values_of_a_list_are_counted_and_weigh_in_the_quality(exports: Path) -> None:
    original = Original.read(exports / "out")
    owners = np.array(sorted(Predictor.of(original.exported, "out").owners()), np.uint64)
    first = click_batch(40, 3).keys
    further = np.concatenate([owners[:1], owners[:1]])  # of the first field of the first two rows
    field = int(further[0] >> np.uint64(56)) - 1
    offsets = np.zeros(41, np.int64)
    offsets[1:], offsets[2:] = 1, 2
    more = MoreValues(offsets=offsets, keys=further, weights=np.array([0.5, 2.0], np.float32))
    batch = click_batch(40, 3)
    ones = np.ones(first.shape, np.float32)
    stream = Stream(label=batch.label, dense=batch.dense, keys=first, more=more, key_weights=ones)
    keys, starts, weights = _values(stream, slice(0, 40))
    assert (len(keys), len(starts), sorted(set(weights.tolist()))) == (162, 160, [0.5, 1.0, 2.0])
    assert (
        count_reads(original.exported, keys).unique[Predictor.of(original.exported, "out").owners()[int(further[0])]]
        >= 2
    )
    assert starts[field + 1] == field + 2
    (held,) = _batches(stream, 0)
    predictor = Predictor.of(original.exported, "out")
    quality = Quality()
    quality.add(predictor.predict(batch.dense, keys, starts, weights), batch.label)
    assert measure(predictor, [held]).log_loss == quality.log_loss
    quality.add(predictor.predict(batch.dense, first), batch.label)
    assert measure(predictor, [held]).log_loss != quality.log_loss


def test_a_checkpoint_is_compressed_as_the_export_of_its_run(tmp_path: Path) -> None:
    run = drive(TrainingRun(run_config(tmp_path / "run", row_format="int8"), 1), 12)
    run.checkpoint()
    export(run, tmp_path / "out")
    run.close()
    keys, contents = click_batch(64, 99).keys, []
    for source in ("run", "out"):
        target = tmp_path / f"small-{source}"
        options = ["--compress", "pq", "--ratio", "1.4", "--out", str(target)]
        done = CliRunner().invoke(export_command, [str(tmp_path / source), *options])
        assert (done.exit_code, done.exception) == (0, None)
        contents.append(json.loads((target / MANIFEST).read_text()))
    one, other = (Predictor.of_export(tmp_path / f"small-{source}").lookup(keys) for source in ("run", "out"))
    assert np.array_equal(one, other)
    for content in contents:
        del content["xxh3"], content["time_ms"]
    assert contents[0] == contents[1]
    done = CliRunner().invoke(export_command, [str(tmp_path), *options])
    assert "got 0 checkpoints, expected an intact one" in str(done.exception)


def test_the_command_offers_every_format() -> None:
    (option,) = (one for one in export_command.params if one.name == "name")
    assert isinstance(option.type, click.Choice)
    assert set(option.type.choices) == set(FORMATS)


def test_a_ratio_beyond_the_format_names_the_largest(exports: Path) -> None:
    original = Original.read(exports / "out")
    with pytest.raises(PlanError, match="int4 reaches 1"):
        compress(original, "int4", 50)


def test_reads_are_those_of_the_lookups(exports: Path) -> None:
    exported = Exported.read(exports / "out")
    keys = click_batch(64, 5).keys.reshape(-1)
    reads, tables = count_reads(exported, keys), Predictor.of(exported, "out").tables
    is_hot = tables.routed(keys)
    assert is_hot.any()
    assert not is_hot.all()
    assert reads.unique.sum() == is_hot.sum()
    assert reads.level_1.sum() == reads.level_2.sum() == (~is_hot).sum()
    owners = tables.owners()
    for key in np.unique(keys[is_hot]).tolist():
        assert reads.unique[owners[key]] == np.count_nonzero(keys == key)
    assert owned_once(exported).unique.sum() == len(owners)


def resign(directory: Path, **change: object) -> None:
    """Replaces members of the manifest, or removes those that are ..., and makes its checksum right."""
    manifest = {**json.loads((directory / MANIFEST).read_text()), "xxh3": "0" * 16, **change}
    kept = {name: member for name, member in manifest.items() if member is not ...}
    (directory / MANIFEST).write_bytes(sign(json.dumps(kept, indent=2).encode()))


def rewrite(directory: Path, change: dict[str, np.ndarray | None], part: str = "rows") -> None:
    """Replaces arrays of the rows, or removes them, and makes the checksums right."""
    path = directory / f"{part}.safetensors"
    arrays = {**safetensors.numpy.load(path.read_bytes()), **change}
    path.write_bytes(safetensors.numpy.save({name: one for name, one in arrays.items() if one is not None}))
    files = json.loads((directory / MANIFEST).read_text())["files"]
    resign(directory, files={**files, path.name: describe_bytes(path.read_bytes())})


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("saec", "unique.codes", "codes"),
        ("saec", "unique.starts", "starts"),
        ("pq", "shared.level_2.codes", "codes"),
        ("low-rank", "unique.directions", "directions"),
        ("int4", "shared.level_1.scales", "scales"),
        ("int4", "gate", "gate"),
    ],
)
def test_damaged_or_malformed_rows_are_refused(exports: Path, name: str, array: str, message: str) -> None:
    _, target = made(exports, name, None if name == "int4" else 1.3)
    data = (target / "rows.safetensors").read_bytes()
    for at in (0, len(data) // 2, len(data) - 1):
        (target / "rows.safetensors").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(CheckpointError, match="damaged; export again"):
            Predictor.of_export(target)
    (target / "rows.safetensors").write_bytes(data)
    whole = safetensors.numpy.load(data)[array]
    bad = [None, whole[:-1], whole.astype(np.float64)]
    if whole.dtype.kind in "iu":
        bad.append(np.full_like(whole, 255))
    for one in bad:
        rewrite(target, {array: one})
        with pytest.raises(CheckpointError, match=message):
            Predictor.of_export(target)
        rewrite(target, {array: whole})
    Predictor.of_export(target)


def test_an_unknown_format_is_refused(exports: Path) -> None:
    _, target = made(exports, "int8")
    path = target / MANIFEST
    path.write_bytes(
        sign(json.dumps({**json.loads(path.read_text()), "xxh3": "0" * 16, "compression": "new"}, indent=2).encode())
    )
    with pytest.raises(CheckpointError, match="compression: got 'new'"):
        Predictor.of_export(target)
    path.write_bytes(
        sign(json.dumps({**json.loads(path.read_text()), "xxh3": "0" * 16, "version": 9}, indent=2).encode())
    )
    with pytest.raises(CheckpointError, match="got version 9"):
        Predictor.of_export(target)


def written_log(folder: Path, rows: int = 300) -> list[str]:
    """A log of the model's columns, and the options that read it."""
    batch, lines = click_batch(rows, 7), ["click,d0,d1,f0,f1,f2,f3"]
    payloads = batch.keys & np.uint64((1 << 56) - 1)
    for label, dense, values in zip(batch.label.tolist(), batch.dense.tolist(), payloads.tolist(), strict=True):
        lines.append(",".join(map(str, [label, *dense, *values])))
    (folder / "later.csv").write_text("\n".join(lines) + "\n")
    columns = 'label = "click"\ndense = ["d0", "d1"]\nheader = true\ndelimiter = ","\n'
    (folder / "log.toml").write_text(f'[log]\n{columns}categorical = ["f0", "f1", "f2", "f3"]\n')
    return ["--log", str(folder / "later.csv"), "--schema", str(folder / "log.toml")]


def test_the_command_reports_bytes_and_quality_before_and_after(exports: Path, tmp_path: Path) -> None:
    options = [str(exports / "out"), "--compress", "pq", "--out", str(tmp_path / "small")]
    report = tmp_path / "report.json"
    arguments = [*options, "--ratio", "1.4", "--json", str(report), *written_log(tmp_path)]
    done = CliRunner().invoke(export_command, arguments)
    assert done.exit_code == 0, done.output
    content = json.loads(report.read_text())
    before, after = (content["bytes"][when] for when in ("before", "after"))
    assert content["ratio"] == before["rows"] / after["rows"] >= 1.4
    assert (before["router"], before["dense"]) == (after["router"], after["dense"])
    assert {one["rows"] for one in content["held_out"].values()} == {150}
    assert all(0 < one["auc"] < 1 and one["lookups_per_s"] > 0 for one in content["held_out"].values())
    assert "AUC" in done.output
    assert Predictor.of_export(tmp_path / "small").can_predict

    refused = CliRunner().invoke(export_command, options)
    assert (refused.exit_code, "expected --ratio R" in refused.output) == (2, True)
    (tmp_path / "log.toml").write_text((tmp_path / "log.toml").read_text().replace('"f3"', '"f9"'))
    refused = CliRunner().invoke(export_command, arguments)
    assert "expected those of the model" in str(refused.exception)


def test_a_cold_key_beside_many_hot_ones_reads_no_centroid_of_its_field(tmp_path: Path, exports: Path) -> None:
    """The last field has one centroid, and row 0 the last one of another field."""
    shutil.copytree(made(exports, "saec", 1.3)[1], target := tmp_path / "out")
    rows = safetensors.numpy.load((target / "rows.safetensors").read_bytes())
    codes, starts = rows["unique.codes"].copy(), rows["unique.starts"].copy()
    groups, last = unique_groups(Exported.read(target)), len(starts) - 2
    starts[last] = starts[-1] - 1
    codes[groups == last] = 0
    assert groups[0] != last
    codes[0] = starts[groups[0] + 1] - starts[groups[0]] - 1
    assert codes[0] > 0
    rewrite(target, {"unique.codes": codes, "unique.starts": starts})
    predictor = Predictor.of_export(target)
    hot = np.array(list(predictor.owners()), np.uint64)
    cold = np.uint64(last + 1) << FIELD_SHIFT | np.uint64(12345)
    keys = np.append(hot, cold)
    assert predictor.tables.routed(keys).tolist() == [True] * len(hot) + [False]
    each = np.concatenate([predictor.lookup(keys[number : number + 1]) for number in range(len(keys))])
    np.testing.assert_array_equal(predictor.lookup(keys), each)


def test_two_keys_of_one_row_are_refused(tmp_path: Path, exports: Path) -> None:
    shutil.copytree(made(exports, "int4")[1], target := tmp_path / "out")
    rows = safetensors.numpy.load((target / "router.safetensors").read_bytes())["values"].copy()
    rows[-1] = rows[0]
    rewrite(target, {"values": rows}, "router")
    for read in (Predictor.of_export, load_export):
        with pytest.raises(CheckpointError, match="router: got two keys of one row"):
            read(target)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("int4", "unique.scales"),
        ("int4", "gate"),
        ("saec", "unique.centroid_scales"),
        ("pq", "shared.level_2.books"),
        ("low-rank", "unique.directions"),
        ("low-rank", "shared.level_2.scales"),
    ],
)
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, exports: Path, name: str, array: str) -> None:
    shutil.copytree(made(exports, name, None if name == "int4" else 1.3)[1], target := tmp_path / "out")
    whole = safetensors.numpy.load((target / "rows.safetensors").read_bytes())[array]
    for number in (np.nan, np.inf):
        bad = whole.copy()
        bad.flat[-1] = number
        rewrite(target, {array: bad})
        for read in (Predictor.of_export, load_export):
            with pytest.raises(CheckpointError, match=r"(scales|gate|books|directions): got numbers that are not"):
                read(target)


def test_numbers_beyond_a_format_or_not_finite_are_not_written(tmp_path: Path, exports: Path) -> None:
    rows = sample()
    large = replace(rows, vectors=rows.vectors * np.float32(1e7))
    for kind in (Int8, Int4, FORMATS["pq"], FORMATS["saec"]):
        with pytest.raises(PlanError, match="expected numbers that float16 has"):
            kind.fit(large, 10**6)
    original = Original.read(exports / "out")
    gate = original.exported.rows["gate"].copy()
    gate[0, 0] = np.nan
    exported = replace(original.exported, rows={**original.exported.rows, "gate": gate})
    with pytest.raises(DivergedError, match="rows: gate has numbers that are not finite"):
        write_compressed(tmp_path / "out", replace(original, exported=exported), "int8", compress(original, "int8"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("compress_to", ["int4", "low-rank"])
def test_sizes_of_a_manifest_are_checked_before_memory_is_taken(
    tmp_path: Path, exports: Path, compress_to: str
) -> None:
    shutil.copytree(made(exports, compress_to, None if compress_to == "int4" else 1.3)[1], target := tmp_path / "out")
    layout = json.loads((target / MANIFEST).read_text())["layout"]
    resign(target, layout={**layout, "capacity_rows": (1 << 31) - 1 - 10_000})
    tracemalloc.start()
    try:
        for _ in range(2):
            with pytest.raises(CheckpointError, match="compressed rows: "):
                Predictor.of_export(target)
            if compress_to == "int4":
                break
            rewrite(target, {"unique.coefficients": np.empty(((1 << 31) - 1 - 10_000, 0), np.int8)})
        assert tracemalloc.get_traced_memory()[1] < 1 << 28
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"layout": {}},
        {"layout": ...},
        {"layout": {"num_fields": "4", "capacity_rows": 40, "level_1_per_field": 2, "level_2_rows": 300}},
        {"layout": {"num_fields": 4, "capacity_rows": -1, "level_1_per_field": 2, "level_2_rows": 300}},
        {"dim": "8"},
        {"dim": 0},
        {"fields": 7},
        {"fields": [["one"]]},
        {"hot_store": 4},
        {"row_format": ...},
        {"rows_trained": None},
        {"files": ...},
        {"files": {}},
        {"published": {"topic_id": 1}},
    ],
)
def test_a_manifest_of_wrong_members_is_refused(tmp_path: Path, exports: Path, change: dict[str, object]) -> None:
    shutil.copytree(made(exports, "int4")[1], target := tmp_path / "out")
    resign(target, **change)
    for read in (Predictor.of_export, load_export):
        with pytest.raises(CheckpointError, match=r"export\.json: "):
            read(target)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_largest_ratio_and_the_one_that_is_said_are_reached(exports: Path, name: str) -> None:
    original = Original.read(exports / "out")
    with pytest.raises(PlanError, match="reaches") as refused:
        compress(original, name, 1000)
    said = float(re.search(r"reaches ([0-9.]+) with", str(refused.value))[1])
    fewest = Bytes.of(replace(original.exported, rows=rows_of(original, compress(original, name)))).rows
    largest = original.nbytes / fewest
    assert largest - 0.01 < said <= largest
    for ratio in (said, largest):
        assert (
            Bytes.of(replace(original.exported, rows=rows_of(original, compress(original, name, ratio)))).rows >= fewest
        )


def rows_of(original: Original, compressed: Compressed) -> dict[str, np.ndarray]:
    """As `write_compressed` writes them."""
    arrays = {"gate": original.exported.rows["gate"]}
    for table, codec in zip(TABLES, compressed.tables, strict=True):
        arrays |= {f"{table}.{part}": array for part, array in codec.arrays().items()}
    return arrays
