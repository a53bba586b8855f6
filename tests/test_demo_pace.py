"""The demo's replay: what it takes for the trainer's speed, where its parts end, and what it says meanwhile."""

from __future__ import annotations

import io
import logging
import re
import threading

import pytest
from agent_driver import STEPS, broker_with_importance
from rich.console import Console
from test_assignments_rereading import count

from streams.processes.log_tail import last_message
from streams.records import Assignment, TrainerMetrics
from streams.telemetry.observer import Observer
from trainer.demo.pace import FLAT_OUT, MEASURED, PACED, CarriedRate, Part, measured_rows, merge_replays, paced_limit
from trainer.demo.view import DemoView


def metrics(second: float, rows: int, lag: int, rows_per_s: float = 0.0) -> TrainerMetrics:
    return TrainerMetrics(time_ms=int(second * 1000), rows=rows, rows_per_s=rows_per_s, lag_records=lag, hot=0)


def carried(*reports: TrainerMetrics | None, before: int = 0) -> float | None:
    rate = CarriedRate(before)
    for report in reports:
        rate.note(report)
    return rate.rows_per_s


def test_a_trainer_carries_what_it_trains_while_records_wait():
    idle = metrics(0, 0, 0)
    assert carried(None, idle) is None
    assert carried(idle, metrics(1, 500, 9), metrics(3, 4500, 5), metrics(9, 6000, 0)) == 2000
    assert carried(metrics(1, 100, 3), metrics(2, 150, 3), metrics(4, 650, 3), before=100) == 250


def test_of_a_trainer_that_is_done_within_a_second_the_best_second_counts():
    assert carried(metrics(1, 500, 0, 700.0), metrics(2, 900, 0, 400.0)) == 700


def test_the_first_part_has_whole_click_records_and_leaves_three_quarters_of_the_log():
    assert measured_rows(None, 512) % 512 == 0
    assert measured_rows(200_000, 512) == measured_rows(None, 512)
    assert measured_rows(6000, 512) == 1024
    assert measured_rows(100, 512) == 512


@pytest.mark.parametrize(
    ("rate", "num_rows", "is_last", "limit"),
    [
        (100.0, None, True, 1000 + 6000),
        (100.0, 50_000, True, 1000 + 6000),
        (100.0, 5000, True, 5000),
        (100.0, 5000, False, 1000 + 2000),
        (0.001, None, True, 1001),
    ],
)
def test_the_paced_part_ends_after_a_minute_or_leaves_half_of_the_rest(rate, num_rows, is_last, limit):
    assert paced_limit(1000, rate, num_rows, is_last=is_last) == limit


def part(name: str, read: int, sent: int, bad: int) -> Part:
    reasons = [{"error": "label", "column": "label", "lines": bad, "first": "a, line 1"}] if bad else []
    rows = {"read": read, "sent": sent, "bad": bad, "skipped": 0}
    return Part(name=name, rate_rows_s=None, report={"rows": rows, "bad_lines": reasons}, carried=CarriedRate())


def test_the_parts_together_are_the_replay_of_one_log():
    merged = merge_replays([part(MEASURED, 10, 9, 1), part(PACED, 30, 18, 2), part(FLAT_OUT, 40, 10, 0)])
    assert merged["rows"] == {"read": 40, "sent": 37, "bad": 3}
    assert merged["bad_lines"] == [{"error": "label", "column": "label", "lines": 3, "first": "a, line 1"}]


def test_the_last_message_of_a_log_is_what_a_process_does_now(tmp_path):
    log = tmp_path / "agent.log"
    assert not last_message(log)
    log.write_text("12:00:01 INFO    streams.agent.app: compiles: all\n  a line of a traceback\n")
    assert last_message(log) == "compiles: all"


def test_a_phase_is_shown_at_once_and_again_while_the_demo_is_busy(caplog, monkeypatch):
    again = threading.Event()

    class Waiting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "streams.cli.progress":
                again.set()

    caplog.set_level(logging.INFO)
    monkeypatch.setattr("trainer.demo.view._LINE_EVERY_S", 0.01)
    logging.getLogger().addHandler(handler := Waiting())
    try:
        with DemoView() as view:
            view.begin("starting", "agent and trainer")
            assert again.wait(30)  # this thread calls nothing meanwhile
    finally:
        logging.getLogger().removeHandler(handler)
    assert caplog.messages[0] == "starting: agent and trainer"
    assert any(message.startswith("starting, 0 s: agent and trainer") for message in caplog.messages[1:])


def test_a_terminal_shows_the_last_changes_newest_first_and_no_name_is_markup(monkeypatch):
    broker = broker_with_importance()
    count(broker, 0, STEPS)
    monkeypatch.setattr("trainer.demo.view.draws_bars", lambda: True)
    with Observer(broker) as observer, DemoView() as view:
        observer.look()
        observer.last_changes.append(Assignment(key=1, tier="hot", shard=0, epoch=1, seq=9, feature="[red]x\x1b[0m"))
        view.begin("replaying", "")
        view.show(observer)
        console = Console(record=True, width=100, file=io.StringIO())
        console.print(view._picture())  # noqa: SLF001
    lines = console.export_text().splitlines()
    first = next(number for number, line in enumerate(lines) if "last changes" in line)
    assert "hot   [red]x\\x1b[0m  score 0, row None" in lines[first]
    assert len([line for line in lines[first:] if re.search(r"(hot|cold) +C\d+:", line)]) == 7


def test_the_title_and_what_it_waits_for_have_lines_of_their_own_from_the_first_picture_on(monkeypatch):
    monkeypatch.setattr("trainer.demo.view.draws_bars", lambda: True)
    with DemoView() as view, Observer(broker_with_importance()) as observer:
        console = Console(record=True, width=60, file=io.StringIO())
        console.print(view._picture())  # noqa: SLF001
        view.begin("starting", "waits for the agent, which " + "compiles " * 9)
        view.show(observer, "waits for the agent, which " + "compiles " * 9)
        console.print(view._picture())  # noqa: SLF001
    first, second, *rest = console.export_text().splitlines()
    assert (first, second.rstrip()) == ("hotstream demo", "hotstream demo: starting, 0 s")
    assert any(re.fullmatch(r" lag {18}0 click records *", line) for line in rest)  # no column is as wide as the text
