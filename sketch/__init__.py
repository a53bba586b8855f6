"""HotSketch and HotSet: which features of a stream matter now, in a fixed amount of memory.

Pure numpy and numba: nothing here knows of Kafka or torch.
"""

from sketch.compile_cache import use_compile_cache

use_compile_cache()

from sketch.changes import Changes  # noqa: E402 - after the cache is set
from sketch.errors import ParameterError, SketchError, SnapshotError  # noqa: E402
from sketch.hotset import HotSet  # noqa: E402
from sketch.hotsketch import HotSketch  # noqa: E402
from sketch.keymap import KeyMap  # noqa: E402

__all__ = ["Changes", "HotSet", "HotSketch", "KeyMap", "ParameterError", "SketchError", "SnapshotError"]
