"""A trained embedding, and a model over it, as plain torch modules of tensors, for `torch.export` and ONNX.

    keys (B, F) --search in the hot keys--> unique row, or rows of both levels --times gates--> vectors (B, F, D)

No compiled kernels, no gradients, no shape that depends on the data. Rows stay in their storage format.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from trainer.embedding import gathers
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.stores.store import Reads
from trainer.ranks.embedding import RankedEmbedding

__all__ = ["ServedEmbedding", "ServedModel"]


class _ServedSlice(nn.Module):
    """A copy of the rows of one embedding: keys (N,) int64 -> vectors (N, D) float32."""

    slots: Tensor
    rows: Tensor
    gates: Tensor

    def __init__(self, embedding: AdaptiveEmbedding) -> None:
        super().__init__()
        copy = AdaptiveEmbedding(embedding.plan, device=embedding.device, backend="torch")
        copy.load_tensors({name: tensor.cpu() for name, tensor in embedding.tensors().items()})
        self._dim, self._num_fields = copy.plan.dim, copy.plan.layout.num_fields
        self.unique, self.shared = copy.unique, copy.shared
        for store in (self.unique, *self.shared.levels.values()):
            store.state = torch.empty(0, device=embedding.device)  # of the optimizer
        slots, rows = copy.router.tensors()
        self.register_buffer("slots", slots)
        self.register_buffer("rows", rows)
        self.register_buffer("gates", copy.gate.values.clone())

    def forward(self, words: Tensor) -> Tensor:
        rows = gathers.find_values(self.slots, self.rows, words)[:, None].long()  # (N, 1)
        fields = gathers.field_indices(words, self._num_fields)
        shared = torch.where(rows >= 0, -1, self.shared.address(words))
        out = torch.zeros(words.shape[0], self._dim, device=words.device)
        self.unique.gather(Reads(addresses=rows, fields=fields, gates=self.gates[:, :1]), out)
        self.shared.gather(Reads(addresses=shared, fields=fields, gates=self.gates[:, 1:]), out)
        return out


class ServedEmbedding(nn.Module):
    """A copy of an embedding as it stands: keys (B, F) int64 -> vectors (B, F, D) float32, equal to the embedding's.

    Keys whose field number is not 1 to F are read as those of the nearest field. Of an embedding with a slice for each
    shard, every key is looked up in each slice: the cost is that of so many lookups.

    Args:
        embedding: the embedding; later changes of it do not change the copy. Of one of ranks, that of a single rank.
    """

    def __init__(self, embedding: AdaptiveEmbedding | RankedEmbedding) -> None:
        super().__init__()
        self.dim, self.num_fields = embedding.plan.dim, embedding.plan.layout.num_fields
        parts = [embedding] if isinstance(embedding, AdaptiveEmbedding) else embedding.local.slices.values()
        self.slices = nn.ModuleList(_ServedSlice(part) for part in parts)

    def forward(self, keys: Tensor, offsets: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        """The vectors (B, F, D) of keys (B, F) int64.

        Args:
            keys: (B, F), or (N,) with `offsets`.
            offsets: (B F,) int64, where the values of each row and field begin, whose vectors are summed, as the
                trainer does: `hotstream.key_bags` gives both.
            weights: (N,) float32 with `offsets`, the factor of each key's vector; None for 1.
        """
        vectors = self._vectors(keys)
        if offsets is None:
            return vectors
        each = torch.arange(vectors.shape[0], device=vectors.device)
        summed = embedding_bag(each, vectors, offsets, mode="sum", per_sample_weights=weights)
        return summed.reshape(-1, self.num_fields, self.dim)

    def _vectors(self, keys: Tensor) -> Tensor:
        """The vectors (..., D) of keys of any shape."""
        words = keys.reshape(-1)
        out: Tensor = self.slices[0](words)
        if len(self.slices) > 1:
            shards = gathers.shards_of(words, len(self.slices))[:, None]  # (N, 1)
            for shard, part in enumerate(self.slices):
                out = torch.where(shards == shard, part(words), out) if shard else out
        return out.reshape(*keys.shape, self.dim)


class ServedModel(nn.Module):
    """A model and its embedding in one: dense (B, M) and keys (B, F), or keys and offsets of bags -> logits (B,).

    Args:
        model: maps dense and vectors to logits, such as the one of `load_export`.
        embedding: its embedding.
    """

    def __init__(self, model: nn.Module, embedding: AdaptiveEmbedding | RankedEmbedding) -> None:
        super().__init__()
        self.model, self.embedding = model, ServedEmbedding(embedding)

    def forward(
        self, dense: Tensor, keys: Tensor, offsets: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """The logits (B,); keys, offsets and weights as in `ServedEmbedding`."""
        logits: Tensor = self.model(dense, self.embedding(keys, offsets, weights))
        return logits
