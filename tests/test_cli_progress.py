"""Progress of a long command without a terminal: one log line per interval."""

from __future__ import annotations

import logging
import threading

import pytest

from streams.cli.progress import log_while_silent, show_progress


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


def test_a_silent_command_logs_a_line_after_every_interval_until_it_is_heard_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logged = threading.Semaphore(0)

    def text(since_s: float) -> str:
        logged.release()
        return f"compiles, {since_s >= 0.01}"

    with caplog.at_level(logging.INFO), log_while_silent(text, interval_s=0.01):
        assert all(logged.acquire(timeout=20) for _ in range(3))
    assert [record.message for record in caplog.records][:3] == ["compiles, True"] * 3


def test_a_command_that_is_never_silent_logs_no_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), log_while_silent(str, interval_s=30.0) as heard:
        heard()
    assert caplog.records == []
