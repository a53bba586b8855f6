"""Click logs: delimited and Parquet files, read in blocks of rows according to a schema."""

from __future__ import annotations

__all__: list[str] = []
