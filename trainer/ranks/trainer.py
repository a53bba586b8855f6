"""`RankedTrainer`: one step of all ranks, equal to one step of a single rank on all their rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from streams.records import ClickBatch
from trainer.embedding.lookup import Scores
from trainer.embedding.value_bags import Bags
from trainer.errors import PlanError
from trainer.learning.dense_part import Computed, DenseOptions
from trainer.learning.learner import DenseOptimizer
from trainer.learning.model_config import ModelConfig
from trainer.learning.models import build_model
from trainer.learning.trainer import ADAPTIVE, Trainer, keys_of
from trainer.ranks.embedding import RankedEmbedding
from trainer.ranks.group import Ranks

__all__ = ["RankedTrainer", "build_ranked_trainer"]


class RankedTrainer(Trainer):
    """The trainer of one of several ranks.

    `start` is a collective: a rank without clicks gives a batch of no rows. The gradients of the dense part are
    averaged by rows, so it stays the same on all ranks, bit for bit. The loss is the mean over the rows of all ranks. A
    step that is not finite on one rank is refused on all.

    Args:
        model: the model, with the same weights on every rank.
        embedding: this rank's embedding.
        ranks: this rank and the others.
        optimizer: the optimizer of the model's parameters.
        options: how the model is computed.

    Attributes:
        rows_in_all: the rows of all ranks in the last step.
    """

    def __init__(
        self,
        model: nn.Module,
        embedding: RankedEmbedding,
        ranks: Ranks,
        *,
        optimizer: DenseOptimizer | None = None,
        options: DenseOptions | None = None,
    ) -> None:
        super().__init__(model, embedding, optimizer=optimizer, options=options)
        self._ranks, self._ranked = ranks, embedding
        self.rows_in_all = 0

    @property
    def is_queued(self) -> bool:
        """False: all ranks agree on a step before they learn."""
        return False

    def send_ahead(self, batch: ClickBatch) -> None:
        """Lets the keys of the next `start`'s batch travel while this step computes; a collective, as `start` is."""
        keys = keys_of(batch, torch.device("cpu"))
        words = keys.keys if isinstance(keys, Bags) else keys
        self._ranked.exchange.send_ahead(words.reshape(-1).numpy(), batch.num_rows)

    def drop_ahead(self) -> None:
        """Takes back what `send_ahead` has sent, as there is no such step; a collective."""
        self._ranked.exchange.drop()

    def _judge(self, passes: Sequence[Computed], rows: int) -> tuple[Tensor, Tensor]:
        """As `Trainer._judge`, over the rows of all ranks; also averages the gradients of the dense part."""
        (computed,) = passes
        self.rows_in_all = self._ranked.rows_in_all
        gradients = [weight.grad for weight in self.learners[ADAPTIVE].model.parameters() if weight.grad is not None]
        shared = torch.zeros(sum(each.numel() for each in gradients) + 2, device=computed.loss.device)
        if rows:
            torch.cat([*(each.reshape(-1) for each in gradients), computed.loss.reshape(1)], out=shared[:-1])
            shared *= rows / self.rows_in_all
            shared[-1] = float(not computed.is_finite)
        self._ranks.add_up(shared)
        parts = torch.split(shared[:-2], [each.numel() for each in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return shared[-1:] == 0, shared[-2:-1].clone()

    def _conclude(self, is_finite: Tensor) -> Scores | None:
        """As `Trainer._conclude`; a step without rows on any rank changes nothing, not even the state of Adam."""
        if self.rows_in_all:
            return super()._conclude(is_finite)
        for learner in self.learners.values():
            learner.drop()
        device = self.embedding.device
        return Scores(keys=torch.empty(0, dtype=torch.int64, device=device), scores=torch.empty(0, device=device))


def build_ranked_trainer(
    config: ModelConfig, num_fields: int, num_dense: int, num_shards: int, ranks: Ranks, device: torch.device
) -> RankedTrainer:
    """Returns an untrained trainer of this rank.

    Raises:
        PlanError: ranks do not support an option, or the size budget is too small.
    """
    if config.compare_hash:
        raise PlanError("--compare hash: several ranks do not train a baseline; train it with one process")
    if config.dense_options.mode not in ("auto", "eager"):
        raise PlanError(
            f"--dense-mode {config.dense_options.mode}: expected auto or eager; ranks exchange gradients in each step"
        )
    options = DenseOptions(precision=config.dense_options.precision, mode="eager")
    model = build_model(config.model, num_dense=num_dense, num_fields=num_fields, dim=config.dim, seed=config.seed)
    embedding = RankedEmbedding(
        config.plan(num_fields),
        num_shards,
        ranks,
        optimizer=config.row_hyperparameters,
        seed=config.seed,
        device=device,
    )
    return RankedTrainer(model, embedding, ranks, optimizer=config.dense_optimizer, options=options)
