"""Click logs as blocks of rows: delimited and Parquet files, read by a schema."""

from __future__ import annotations

__all__: list[str] = []
