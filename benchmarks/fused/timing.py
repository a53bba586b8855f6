"""Times on a GPU: medians of events around each call, after a warm-up."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["copy_bytes_per_s", "graph_ms", "median_ms"]

_WARM_UP, _CALLS = 3, 15


def median_ms(call: Callable[[int], Any], calls: int = _CALLS) -> float:
    """The median time of `call(i)`; the host runs ahead, so that gaps between launches count only if they are real."""
    for number in range(_WARM_UP):
        call(number)
    torch.cuda.synchronize()
    pairs = []
    for number in range(calls):
        pair = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
        pair[0].record()
        call(number)
        pair[1].record()
        pairs.append(pair)
    torch.cuda.synchronize()
    return float(np.median([start.elapsed_time(end) for start, end in pairs]))


def graph_ms(call: Callable[[], Any]) -> float:
    """The time of a replay of a CUDA graph of `call`."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        call()
    return median_ms(lambda _: graph.replay())


def copy_bytes_per_s(num_bytes: int = 2 << 30) -> float:
    """Bytes read and written a second by a large copy."""
    source = torch.zeros(num_bytes // 4, device="cuda")
    target = torch.empty_like(source)
    return 2 * num_bytes / (median_ms(lambda _: target.copy_(source)) / 1e3)
