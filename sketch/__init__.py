"""HotSketch and HotSet: which features of a stream matter now, in a fixed amount of memory.

Pure numpy and numba: nothing here knows of Kafka or torch.
"""

import sketch.compile_cache  # noqa: F401 - must come first: it sets where numba keeps what it compiles
from sketch.changes import Changes
from sketch.errors import ParameterError, SketchError, SnapshotError
from sketch.hotset import HotSet
from sketch.hotsketch import HotSketch
from sketch.keymap import KeyMap

__all__ = ["Changes", "HotSet", "HotSketch", "KeyMap", "ParameterError", "SketchError", "SnapshotError"]
