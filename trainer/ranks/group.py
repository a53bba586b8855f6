"""`Ranks`: the processes that train one model, and what they exchange; `torchrun` starts them.

A collective is a call that every rank makes, in the same order. On a CPU and for numbers of the host it is gloo's, for
tensors of a GPU NCCL's. A single rank needs neither: it exchanges with itself.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from trainer.errors import RankError

__all__ = ["RANK_TIMEOUT_S", "Ranks", "join_launched", "next_meeting", "open_launchers_store"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
RANK_TIMEOUT_S = 600.0  # for a rank that works; one that ends closes its connections, which all notice
_GPU_TIMEOUT_S = 10.0  # for a rank that has begun the same step
_NOTICE_S, _LOOK_S = 3.0, 0.05  # how long the others may take to fail, too, and how often to look


class Ranks:
    """This process among all ranks.

    Args:
        rank: the number of this process, from 0.
        world: the number of processes.
        host_group: the group of collectives on numbers of the host; None for the default group.
        device_group: the group of collectives on a GPU.
        store: where ranks whose exchange has failed say so; None for nowhere.
        timeout_s: how long to wait for a rank.
    """

    def __init__(
        self, rank: int = 0, world: int = 1, *, host_group: Any = None, device_group: Any = None, store: Any = None,
        timeout_s: float = RANK_TIMEOUT_S,
    ) -> None:  # fmt: skip
        self.rank, self.world = rank, world
        self._host_group, self._device_group = host_group, device_group
        self._store, self._timeout_s = store, timeout_s
        self._beside: Ranks | None = None

    @classmethod
    def join(
        cls,
        rank: int,
        world: int,
        device: torch.device,
        open_store: Callable[[], Any],
        *,
        timeout_s: float = RANK_TIMEOUT_S,
    ) -> Ranks:
        """Waits until all ranks have joined.

        Args:
            rank: the number of this process.
            world: the number of processes.
            device: the device of the embedding.
            open_store: opens the store in which they meet; no other group has met in it.
            timeout_s: how long to wait for a rank, now and in each collective.

        Raises:
            RankError: not all of them came.
        """
        if world == 1:
            return cls()
        ranks, patience = cls(rank, world, timeout_s=timeout_s), timedelta(seconds=timeout_s)
        with ranks._explained():
            ranks._store = store = open_store()
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=patience)
            group = dist.new_group(backend="gloo", timeout=patience)
            ranks._beside = cls(rank, world, host_group=group, store=store, timeout_s=timeout_s)
            if device.type == "cuda":
                gpu_patience = timedelta(seconds=min(timeout_s, _GPU_TIMEOUT_S))
                ranks._device_group = dist.new_group(backend="nccl", timeout=gpu_patience)
        return ranks

    def leave(self) -> None:
        """Closes the connections to the other ranks."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def beside(self) -> Ranks:
        """The same ranks for collectives of numbers of the host in one other thread, beside those of these."""
        return self._beside or self

    def owns(self, number: int) -> bool:
        """Whether the shard or click partition of this number is this rank's."""
        return number % self.world == self.rank

    def gather(self, numbers: Sequence[int]) -> list[list[int]]:
        """The numbers of every rank, in the order of the ranks; all ranks give equally many."""
        if self.world == 1:
            return [list(numbers)]
        mine = torch.tensor(numbers, dtype=torch.int64)
        every = [torch.empty_like(mine) for _ in range(self.world)]
        self._call(lambda: dist.all_gather(every, mine, group=self._host_group))
        return [one.tolist() for one in every]

    def gather_objects(self, mine: T) -> list[T]:
        """The objects of every rank, plain values of JSON, in the order of the ranks; they travel as JSON."""
        if self.world == 1:
            return [mine]
        text = torch.frombuffer(bytearray(json.dumps(mine).encode()), dtype=torch.uint8)
        sizes = [size for (size,) in self.gather([len(text)])]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(text)] = text
        every = [torch.empty_like(padded) for _ in sizes]
        self._call(lambda: dist.all_gather(every, padded, group=self._host_group))
        return [json.loads(one[:size].numpy().tobytes()) for one, size in zip(every, sizes, strict=True)]

    def swap(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Sends parts of rows (N, ...) to the ranks, and returns what they send to this one, in their order.

        Args:
            rows: the rows for rank 0, then those for rank 1, and so on.
            sent: the number of rows for each rank.
            received: the number of rows that come from each rank.
        """
        if self.world == 1:
            return rows
        out = rows.new_empty(sum(received), *rows.shape[1:])
        group = self.group_of(rows)
        self._call(lambda: dist.all_to_all_single(out, rows.contiguous(), list(received), list(sent), group=group))
        return out

    def add_up(self, values: Tensor) -> None:
        """Replaces values (P,) by their sum over all ranks, which is the same bit for bit on each."""
        if self.world > 1:
            self._call(lambda: dist.all_reduce(values, group=self.group_of(values)))

    def group_of(self, tensor: Tensor) -> Any:
        """The group that exchanges a tensor: that of the device it is on."""
        return self._device_group if tensor.device.type == "cuda" else self._host_group

    def _call(self, collective: Callable[[], Any]) -> None:
        with self._explained():
            collective()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Replaces torch's error of a connection.

        Raises:
            RankError: another rank has ended or does not answer, or the exchange failed for the reason in the message.
        """
        started_s = time.monotonic()
        try:
            yield
        except RuntimeError as error:  # of which torch's errors of collectives are subclasses
            is_late = time.monotonic() - started_s >= self._timeout_s
            logger.debug("%s", error)
            reason = str(error).partition("\n")[0]
            silent = self._find_silent()
            who = f"rank {' and '.join(map(str, silent))}" if silent else "another rank"
            what = (
                f"did not answer within {self._timeout_s:g} s (--rank-timeout)"
                if is_late
                else f"has ended, or cannot be reached ({reason})"
            )
            raise RankError(
                f"rank {self.rank} of {self.world}: {who} {what}, so this one ends, too; start all again, or have "
                "`torchrun --max-restarts` do so: they go on from the newest checkpoint that all of them have"
            ) from error

    def _find_silent(self) -> list[int]:
        """The ranks whose exchange has not failed, too, within 3 s: they have ended, or hang; none if it is unknown."""
        if self._store is None:
            return []
        others, end_s = set(range(self.world)) - {self.rank}, time.monotonic() + _NOTICE_S
        try:
            self._store.set(f"hotstream.failed.{self.rank}", "1")
            while others and time.monotonic() < end_s:
                others -= {rank for rank in others if self._store.check([f"hotstream.failed.{rank}"])}
                time.sleep(_LOOK_S)
        except RuntimeError as error:  # the store's process has ended
            logger.debug("%s", error)
            return []
        return sorted(others)


def join_launched(device: torch.device, *, timeout_s: float = RANK_TIMEOUT_S) -> Ranks | None:
    """Joins the ranks that `torchrun` has started; None if it has not started this process.

    On a GPU each rank takes the GPU of its number on this machine.

    Args:
        device: the device of the embedding.
        timeout_s: how long to wait for a rank.

    Raises:
        RankError: not all of them came.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        return None
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return Ranks.join(rank, world, device, _open_attempts_store, timeout_s=timeout_s)


def open_launchers_store() -> tuple[Any, bool]:
    """The launcher's store, and whether a single launcher has it, which starts all ranks together."""
    store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=RANK_TIMEOUT_S)))
    is_single = os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]
    return store, is_single and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _open_attempts_store() -> Any:
    """The launcher's store, apart from the addresses that ranks of an earlier attempt have left in it."""
    store, is_single = open_launchers_store()
    number = int(os.environ["TORCHELASTIC_RESTART_COUNT"]) if is_single else next_meeting(store)
    return PrefixStore(f"attempt-{number}", store)


def next_meeting(store: Any) -> int:
    """The number of an attempt of ranks of several machines, whose launchers start them again one by one.

    A rank goes to the newest attempt, and never twice to the same. A number that some rank has used up meanwhile fails,
    and the next one is newer.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    numbers = [int(store.add(f"hotstream.meeting.{each}", 0)) for each in range(world)]
    number = max(numbers[rank] + 1, *numbers)
    store.add(f"hotstream.meeting.{rank}", number - numbers[rank])
    return number
