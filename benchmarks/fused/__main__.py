"""Checks the fused kernels against the torch body on a GPU, then times them part by part.

python -m benchmarks.fused check
python -m benchmarks.fused time --dim 128 --batch-rows 16384 --tile 16 --warps 4
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.fused.timing import copy_bytes_per_s, graph_ms, median_ms
from benchmarks.fused.workload import NUM_FIELDS, draw_keys, make_embedding
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.fused.body import FusedTiers
from trainer.embedding.fused.shapes import Tuning
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.plans import hash_plan
from trainer.embedding.stores.registry import ROW_FORMATS

__all__ = ["main"]

_BATCHES = 4  # among which the calls rotate, so that they do not measure a cache


@click.group()
def main() -> None:
    """Checks and times the fused kernels."""


@main.command()
@click.option("--device", default="cuda")
@click.option("--batch-rows", default=512)
@click.option("--dim", "dims", multiple=True, default=(5, 16, 128))
@click.option("--row-format", "formats", multiple=True, default=ROW_FORMATS)
def check(device: str, batch_rows: int, dims: tuple[int, ...], formats: tuple[str, ...]) -> None:
    """Prints the largest differences between both bodies after three steps."""
    for dim in dims:
        for row_format in formats:
            bodies = [make_embedding(2000, dim, torch.device(device), name, row_format) for name in ("torch", "triton")]
            vectors, scores = zip(*(_train(one, batch_rows) for one in bodies), strict=True)
            both = [one.tensors() for one in bodies]
            apart = {
                name: f"{float((both[0][name].float() - both[1][name].float()).abs().max()):.1e}"
                for name in both[0]
                if name.endswith(("values", "state", "gate")) and "router" not in name and both[0][name].numel()
            }
            same = vectors[0].equal(vectors[1])
            worst = max(abs(scores[1][key] / one - 1) for key, one in scores[0].items() if one)
            click.echo(f"D {dim} {row_format}: forward equal {same}, keys equal {scores[0].keys() == scores[1].keys()}")
            click.echo(f"  scores {worst:.1e}, {apart}")


def _train(embedding: AdaptiveEmbedding, batch_rows: int) -> tuple[Tensor, dict[int, float]]:
    """The first vectors, and the importance after three steps."""
    keys = draw_keys(batch_rows, 1)
    first = embedding(keys).detach()
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        weights = torch.randn(*keys.shape, embedding.plan.dim, generator=generator).to(first.device)
        (weights * embedding(keys).sin()).sum(dim=(1, 2)).mean().backward()
        importance = embedding.apply_gradients()
    return first, dict(zip(importance.keys.tolist(), importance.scores.tolist(), strict=True))


@main.command()
@click.option("--dim", default=128)
@click.option("--batch-rows", "sizes", multiple=True, default=(2048, 16384, 65536))
@click.option("--capacity", default=1_000_000)
@click.option("--body", type=click.Choice(["triton", "torch"]), default="triton")
@click.option("--row-format", type=click.Choice(ROW_FORMATS), default="float32")
@click.option("--set", "tunings", multiple=True, default=("",), help="The tuning, such as tile=16,warps=4.")
@click.option("--json", "path", type=click.Path(path_type=Path))
def time(
    dim: int,
    sizes: tuple[int, ...],
    capacity: int,
    body: Any,
    row_format: str,
    tunings: tuple[str, ...],
    path: Path | None,
) -> None:
    """Times every size with every tuning."""
    embedding = make_embedding(capacity, dim, torch.device("cuda"), body, row_format)
    fused, rate = embedding._fused, copy_bytes_per_s()  # noqa: SLF001
    for batch_rows in sizes:
        batches = [_on_device(draw_keys(batch_rows, seed)) for seed in range(_BATCHES)]
        gradient = torch.randn(len(batches[0]), dim, device="cuda") * 1e-6
        floor = _floor(embedding, batches[0], rate)
        for tuning in tunings:
            figures = {}
            if fused is not None:
                _tune(fused, tuning)
                figures = _time_parts(fused, batches, gradient, batch_rows)
                figures |= _time_hash(embedding, batches, gradient)
            torch.cuda.reset_peak_memory_stats()
            figures["step_ms"] = _time_steps(embedding, batches, gradient)
            figures["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
            figures |= {**floor, "reached": floor["floor_ms"] / figures["step_ms"]}
            named = {"dim": dim, "batch_rows": batch_rows, "body": body, "format": row_format, "set": tuning}
            click.echo(" ".join(f"{name}={value}" for name, value in named.items()))
            click.echo("   " + " ".join(f"{name}={number:.4g}" for name, number in figures.items()))
            if path:
                with path.open("a") as lines:
                    lines.write(json.dumps({**named, "capacity": capacity, **figures}) + "\n")


def _on_device(keys: npt.NDArray[np.uint64]) -> Tensor:
    return torch.from_numpy(keys.reshape(-1).view(np.int64)).cuda()


def _tune(fused: FusedTiers, tuning: str) -> None:
    changed = {name: int(number) for name, _, number in (one.partition("=") for one in tuning.split(",") if one)}
    fused.tuning = replace(Tuning.of(fused.dim), **changed)


def _time_steps(embedding: AdaptiveEmbedding, batches: list[Tensor], gradient: Tensor) -> float:
    """Milliseconds of forward, backward and update, without the copy of the importance to the host."""
    batch_rows = len(gradient) // NUM_FIELDS
    fused = embedding._fused  # noqa: SLF001

    def step(number: int) -> None:
        keys = batches[number % _BATCHES]
        lookup = embedding.look_up(keys, batch_rows)
        embedding.gather(lookup)
        if fused is not None:
            fused.learn(keys, lookup.routed, gradient, batch_rows)
            return
        touched = embedding.reduce(lookup, gradient)
        embedding.unique.learn(touched.sums["unique"], batch_rows)
        embedding.shared.learn(touched.sums["shared"], batch_rows)
        embedding.gate.learn(touched.slopes)

    return median_ms(step)


def _time_parts(fused: FusedTiers, batches: list[Tensor], gradient: Tensor, batch_rows: int) -> dict[str, float]:
    with torch.no_grad():
        routes = [fused.route(keys) for keys in batches]
    entries = [fused.sort(routed) for routed in routes]

    def train(number: int) -> None:
        one = number % _BATCHES
        fused.train(batches[one], routes[one], entries[one], gradient, batch_rows)

    parts: dict[str, Callable[[int], Any]] = {
        "route": torch.no_grad()(lambda i: fused.route(batches[i % _BATCHES])),
        "gather": lambda i: fused.gather(routes[i % _BATCHES]),
        "sort_ids": lambda i: routes[i % _BATCHES].ids.sort(stable=True),
        "sort": lambda i: fused.sort(routes[i % _BATCHES]),
        "train": train,
    }
    figures = {f"{name}_ms": median_ms(part) for name, part in parts.items()}
    figures["train_graph_ms"] = graph_ms(lambda: train(0))

    def step() -> None:
        routed = fused.route(batches[0])
        fused.gather(routed)
        fused.learn(batches[0], routed, gradient, batch_rows)

    return {**figures, "graph_ms": graph_ms(step), "launches": float(_launches(step))}


def _time_hash(embedding: AdaptiveEmbedding, batches: list[Tensor], gradient: Tensor) -> dict[str, float]:
    """The same step of a plain hash table of as many bytes, with the same kernels."""
    plan = embedding.plan
    sizes = hash_plan(plan.nbytes["total"], plan.dim, NUM_FIELDS, row_format=plan.row_format)
    hashed = HashEmbedding(sizes, device=torch.device("cuda"), backend="triton")
    fused = hashed._fused  # noqa: SLF001
    assert fused is not None  # noqa: S101  the backend is triton

    def step(number: int) -> None:
        rows = fused.hash(batches[number % _BATCHES], sizes.layout)
        fused.gather(rows)
        fused.learn(rows, gradient)

    return {"hash_step_ms": median_ms(step), "hash_graph_ms": graph_ms(lambda: step(0))}


def _launches(step: Any) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if "CUDA" in str(event.device_type))


def _floor(embedding: AdaptiveEmbedding, keys: Tensor, rate: float) -> dict[str, float]:
    """The fewest bytes: each row read and written once, a gradient read, vectors written, keys read, scores written."""
    reads = embedding._reads_torch(keys)  # noqa: SLF001
    unique, shared = reads["unique"].addresses, reads["shared"].addresses
    is_hot = unique[:, 0] >= 0
    every = (unique[is_hot], shared[~is_hot, 0], shared[~is_hot, 1:], keys)
    *distinct, scored = (len(torch.unique(one)) for one in every)
    moved = 2 * sum(distinct) * embedding.plan.row_bytes + len(keys) * (8 + 8 * embedding.plan.dim) + 12 * scored
    return {
        "hot": float(is_hot.float().mean()),
        "rows": float(sum(distinct)),
        "floor_mb": moved / 1e6,
        "copy_tb_s": rate / 1e12,
        "floor_ms": moved / rate * 1e3,
        "table_mb": embedding.nbytes["device"] / 1e6,
    }


if __name__ == "__main__":
    main()
