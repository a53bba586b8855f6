"""The TOML parser: `tomllib` of the standard library, or `tomli` before Python 3.11."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["parse_toml"]


def parse_toml(text: str) -> dict[str, Any]:
    """The document of a TOML text.

    Raises:
        ValueError: the text is not valid TOML; the message names the line.
    """
    parser: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        document: dict[str, Any] = parser.loads(text)
    except RecursionError as error:
        raise ValueError("arrays or tables nested too deep") from error
    return document
