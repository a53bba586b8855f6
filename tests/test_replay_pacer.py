"""The replay's pacer with a test clock: even intervals, bounded catching up, and the log's own pace."""

from __future__ import annotations

import pytest

from streams.replay.pacer import Pacer


class Clock:
    """A clock that only sleeping advances."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.naps.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_a_rate_nothing_waits(clock: Clock):
    pacer = Pacer(clock=clock, sleep=clock.sleep)
    assert all(pacer.wait(1000, event_time_ms) for event_time_ms in (0, 5_000, 99_000))
    assert clock.naps == []


def test_a_rate_spaces_batches_evenly(clock: Clock):
    pacer = Pacer(rate_rows_s=100, clock=clock, sleep=clock.sleep)
    starts_s = []
    for rows in (50, 50, 200, 10):
        assert pacer.wait(rows, 0)
        starts_s.append(clock.now_s)
    assert starts_s == pytest.approx([100.0, 100.5, 101.0, 103.0])
    assert max(clock.naps) <= 0.1


def test_after_a_stall_at_most_a_second_is_made_up_for(clock: Clock):
    pacer = Pacer(rate_rows_s=100, clock=clock, sleep=clock.sleep)
    pacer.wait(10, 0)
    clock.now_s += 60
    at_once = 0
    while not clock.naps:
        pacer.wait(10, 0)
        at_once += not clock.naps
    assert at_once == 11  # one second of rows at 100 rows a second, and the batch that is due now


def test_a_speedup_follows_the_events_own_times(clock: Clock):
    pacer = Pacer(speedup=10, clock=clock, sleep=clock.sleep)
    starts_s = []
    for event_time_ms in (50_000, 50_000, 70_000, 60_000, 80_000):
        assert pacer.wait(1, event_time_ms)
        starts_s.append(clock.now_s)
    assert starts_s == pytest.approx([100.0, 100.0, 102.0, 102.0, 103.0])


YEAR_2100_MS, START_MS = 4_102_444_800_000, 1_700_000_000_000


@pytest.mark.parametrize("wrong", [5, 0])
def test_a_wrong_year_delays_nothing_and_is_named(clock: Clock, caplog: pytest.LogCaptureFixture, wrong: int):
    pacer = Pacer(speedup=1, clock=clock, sleep=clock.sleep)
    for number in range(100):
        assert pacer.wait(1, YEAR_2100_MS if number == wrong else START_MS + 1000 * number, f"batch {number}")
    assert 60 <= clock.now_s - 100 <= 99
    assert f"batch {max(wrong, 1)}: event time " in caplog.text
    assert len(caplog.records) <= 6


def test_a_gap_of_years_waits_a_day_at_most_and_the_wait_is_logged(clock: Clock, caplog: pytest.LogCaptureFixture):
    pacer = Pacer(speedup=1000, clock=clock, sleep=clock.sleep)
    with caplog.at_level("INFO"):
        for number in range(100):
            assert pacer.wait(1, (YEAR_2100_MS if number >= 50 else START_MS) + number, f"batch {number}")
    assert clock.now_s - 100 == pytest.approx(86.4, abs=0.1)
    assert "batch 81: waits 86 s for the pace of the log (event time 2100-01-01T00:00:00.081)" in caplog.text


def test_a_stop_ends_the_wait_within_a_tenth_of_a_second(clock: Clock):
    pacer = Pacer(rate_rows_s=1, clock=clock, sleep=clock.sleep, should_stop=lambda: clock.now_s >= 105)
    assert pacer.wait(1000, 0)
    assert not pacer.wait(1000, 0)
    assert clock.now_s <= 105.1 + 1e-6
    assert not pacer.wait(0, 0)
