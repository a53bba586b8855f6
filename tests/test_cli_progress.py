"""Progress of a long command without a terminal: one log line per interval."""

from __future__ import annotations

import logging

import pytest

from streams.cli.progress import show_progress


def test_without_a_terminal_progress_is_a_log_line_every_5_seconds(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 100.0
    with caplog.at_level(logging.INFO), show_progress("replay", lambda: now_s) as show:
        for step in range(1, 13):
            now_s = 100.0 + step
            show(step, 20, f"{step} rows")
    assert [record.message for record in caplog.records] == ["replay: 5 rows, 25%", "replay: 10 rows, 50%"]


def test_an_unknown_or_empty_total_shows_no_share(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    with caplog.at_level(logging.INFO), show_progress("replay", lambda: now_s) as show:
        now_s = 5.0
        show(0, 0, "0 rows")
    assert [record.message for record in caplog.records] == ["replay: 0 rows"]
