"""Times queued work: CUDA events on a GPU, the host's clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

__all__ = ["DeviceClock", "measure_bandwidth"]


class DeviceClock:
    """Measures how long a device takes for work that the host queues.

    Args:
        device: the device of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def wait(self) -> None:
        """Waits for all queued work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def milliseconds(self, work: Callable[[], None]) -> float:
        """The time from the start of the work on an idle device until its end."""
        self.wait()
        if self._device.type != "cuda":
            started_s = time.perf_counter()
            work()
            return (time.perf_counter() - started_s) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    def take_turns(
        self, works: Sequence[Callable[[int], None]], *, turns: int, repeats: int, warm_up: int
    ) -> list[float]:
        """Milliseconds of one repetition of each work: the median of turns in the order A B B A.

        Args:
            works: called with the number of the repetition, by which they rotate their inputs.
            turns: the number of measurements of each work.
            repeats: repetitions in a turn, queued without a pause.
            warm_up: repetitions of each before the first turn.
        """
        for work in works:
            for number in range(warm_up):
                work(number)
        times: list[list[float]] = [[] for _ in works]
        order = list(range(len(works)))
        for turn in range(turns):
            for index in order if turn % 2 == 0 else reversed(order):
                first = turn * repeats

                def repeated(work: Callable[[int], None] = works[index], first: int = first) -> None:
                    for number in range(first, first + repeats):
                        work(number)

                times[index].append(self.milliseconds(repeated) / repeats)
        return [float(np.median(each)) for each in times]


def measure_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes a second that a copy within the device reads and writes, the median of 15 copies."""
    source = torch.rand(num_bytes // 4, device=device)
    target, clock = torch.empty_like(source), DeviceClock(device)

    def copy(_number: int) -> None:
        target.copy_(source)

    [ms] = clock.take_turns([copy], turns=15, repeats=1, warm_up=3)
    return 2 * source.nbytes / ms * 1e3
