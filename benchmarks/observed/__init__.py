"""What it costs the pipeline to be watched: metrics that are scraped, and a dashboard with an open page."""

from __future__ import annotations

__all__: list[str] = []
