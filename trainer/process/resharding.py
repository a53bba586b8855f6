"""`join_checkpoints`: a rank's part of a checkpoint that several ranks have written, most often another number of them.

What belongs to a shard or a click partition comes from the rank that owned it, the dense part from rank 0. Counts of
all ranks stay what they are: a rank takes those of the ranks whose number is its own modulo the number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streams.assignments.history import History
from trainer.learning.quality import Windows
from trainer.process.checkpoint import Checkpoint
from trainer.process.history_tensors import HISTORY, history_tensors
from trainer.process.progress import Progress
from trainer.ranks.group import Ranks

__all__ = ["join_checkpoints"]


def join_checkpoints(parts: Sequence[Checkpoint], ranks: Ranks) -> Checkpoint:
    """This rank's checkpoint, from those of all ranks that wrote it, in their order."""
    world, first = len(parts), parts[0]
    tensors = {name: tensor for name, tensor in first.tensors.items() if not name.startswith(HISTORY)}
    for part in parts[1:]:
        tensors |= {name: one for name, one in part.tensors.items() if name not in tensors and not _is_history(name)}
    num_shards = len(first.state["history"]["shards"])
    fresh = History(num_shards)
    history, arrays = fresh.to_state(), history_tensors(fresh)
    for shard in range(num_shards):
        if ranks.owns(shard):
            owner = parts[shard % world]
            history["shards"][shard] = owner.state["history"]["shards"][shard]
            start = f"{HISTORY}{shard}."
            arrays |= {name: one for name, one in owner.tensors.items() if name.startswith(start)}
    history["max_hot"] = max(int(part.state["history"]["max_hot"]) for part in parts)
    state = {
        **first.state,
        "event": 0,
        "history": history,
        "progress": _join_progress([part.state["progress"] for part in parts], ranks),
        "offsets": {
            topic: _own_offsets([part.state["offsets"] for part in parts], topic, ranks)
            for topic in first.state["offsets"]
        },
    }
    return Checkpoint({**tensors, **arrays}, state, first.path)


def _is_history(name: str) -> bool:
    return name.startswith(HISTORY)


def _own_offsets(every: Sequence[Mapping[str, Any]], topic: str, ranks: Ranks) -> dict[str, int]:
    """The offsets of this rank's partitions of a topic."""
    known = {number: offset for offsets in every for number, offset in offsets[topic].items()}
    return {number: offset for number, offset in known.items() if ranks.owns(int(number))}


def _join_progress(every: Sequence[Mapping[str, Any]], ranks: Ranks) -> dict[str, Any]:
    windows = every[0]["windows"]
    total = Progress(Windows(list(windows["names"]), int(windows["window_rows"])))
    for number, state in enumerate(every):
        if ranks.owns(number):
            total.add_up(Progress.of_state(state))
    return total.to_state()
