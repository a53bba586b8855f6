"""hotstream in TorchRec: a managed collision module whose remapping is the hot set (docs/api.md, "TorchRec").

>>> import hotstream.torchrec                                     # doctest: +SKIP
>>> hotstream.torchrec.migrate(model, follower.changes())         # doctest: +SKIP
"""

from __future__ import annotations

from trainer.embedding.managed_collision import HotSetCollision, migrate

__all__ = ["HotSetCollision", "migrate"]
