"""The dense part of a step: its modes and precisions, and what the lower precision costs in quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sketch import HotSet, HotSketch
from streams.keys import CRITEO_FIELDS
from trainer.bench.device.clock import DeviceClock
from trainer.bench.device.inputs import NUM_DENSE, NUM_FIELDS
from trainer.bench.feed import DENSE_NAMES, Stream
from trainer.learning.building import build_trainer
from trainer.learning.dense_part import DENSE_MODES, PRECISIONS, DenseOptimizer, DenseOptions, DensePart
from trainer.learning.model_config import ModelConfig
from trainer.learning.models import build_model
from trainer.learning.quality import Quality
from trainer.learning.trainer import ADAPTIVE

__all__ = ["measure_dense", "measure_precision"]

_CAPACITY, _ROWS = 20_000, 2048


def measure_dense(
    device: torch.device, dims: Sequence[int], batch_sizes: Sequence[int], model: str = "dlrm", turns: int = 6
) -> list[dict[str, Any]]:
    """Milliseconds of forward, backward and optimizer of the dense part, for each mode and precision."""
    modes = [mode for mode in DENSE_MODES if mode != "auto" and (mode != "graph" or device.type == "cuda")]
    figures: list[dict[str, Any]] = []
    for dim in dims:
        for rows in batch_sizes:
            chosen = [DenseOptions(mode=mode, precision=precision) for mode in modes for precision in PRECISIONS]  # type: ignore[arg-type]
            works = [_dense_work(options, device, dim, rows, model) for options in chosen]
            repeats = 20 if rows <= 8192 else 5
            times = DeviceClock(device).take_turns(works, turns=turns, repeats=repeats, warm_up=6)
            figures += [
                {"dim": dim, "batch_rows": rows, "mode": options.mode, "precision": options.precision, "ms": ms}
                for options, ms in zip(chosen, times, strict=True)
            ]
    return figures


def _dense_work(options: DenseOptions, device: torch.device, dim: int, rows: int, name: str) -> Any:
    model = build_model(name, num_dense=NUM_DENSE, num_fields=NUM_FIELDS, dim=dim).to(device)
    part, optimizer = DensePart(model, options, device), DenseOptimizer().build(model.parameters(), is_queued=True)
    dense, label = torch.rand(rows, NUM_DENSE, device=device), (torch.rand(rows, device=device) < 0.25).float()
    vectors = torch.randn(rows, NUM_FIELDS, dim, device=device) * dim**-0.5

    def work(_number: int) -> None:
        part.differentiate(dense, vectors.detach().requires_grad_(), label)
        optimizer.step()

    return work


def measure_precision(device: torch.device, steps: int, seeds: Sequence[int] = (0, 1)) -> list[dict[str, Any]]:
    """AUC and log loss of each precision over the same generated rows, with a hot set that follows, by seed."""
    figures = []
    for seed in seeds:
        for precision in PRECISIONS:
            quality = _train(device, DenseOptions(precision=precision), steps, seed)  # type: ignore[arg-type]
            figures.append(
                {
                    "seed": seed,
                    "precision": precision,
                    "rows": quality.rows,
                    "auc": quality.auc,
                    "log_loss": quality.log_loss,
                }
            )
    return figures


def _train(device: torch.device, options: DenseOptions, steps: int, seed: int) -> Quality:
    config = ModelConfig(capacity_rows=_CAPACITY, dense_options=options, seed=seed)
    trainer, stream = build_trainer(config, CRITEO_FIELDS, len(DENSE_NAMES), device), Stream(seed)
    hot_set, quality = HotSet(_CAPACITY, HotSketch(_CAPACITY)), Quality()
    for _ in range(steps):
        batch = stream.take(_ROWS)
        report = trainer.step(batch)
        quality.add(report.logits[ADAPTIVE], batch.require_labels())
        assert report.importance is not None  # noqa: S101  rates are the defaults
        trainer.migrate(hot_set.update(report.importance.keys, report.importance.scores))
    return quality
