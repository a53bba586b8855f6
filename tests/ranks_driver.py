"""Ranks as processes of this machine, without `torchrun`: `RankPool(2).run(function, ...)` runs a function in each."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import xxhash

from trainer.ranks.group import RANK_TIMEOUT_S, Ranks


class RankPool:
    """Processes that become ranks for one function after the other."""

    def __init__(self, most: int = 2) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(most)

    def __enter__(self) -> RankPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.terminate()
        self._pool.join()

    def run(
        self, world: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = RANK_TIMEOUT_S
    ) -> list[Any]:
        """What `function(ranks, *arguments)` returns in each of `world` processes, in the order of the ranks.

        The function is one of a module, and its values can be pickled. The ranks wait for each other when they meet, so
        no process gets two.
        """
        with tempfile.TemporaryDirectory() as directory:
            meet = str(Path(directory) / "meet")
            tasks = [(rank, world, meet, timeout_s, function, arguments) for rank in range(world)]
            return self._pool.starmap_async(_run, tasks, chunksize=1).get(timeout=150)


def _run(
    rank: int, world: int, meet: str, timeout_s: float, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    ranks = Ranks.join(rank, world, cpu, lambda: torch.distributed.FileStore(meet, world), timeout_s=timeout_s)
    try:
        return function(ranks, *arguments)
    finally:
        ranks.leave()


def digest_of(tensors: dict[str, torch.Tensor]) -> str:
    """The digest of named tensors."""
    digest = xxhash.xxh3_64()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        if tensor.numel():  # the view of an empty one is refused
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
