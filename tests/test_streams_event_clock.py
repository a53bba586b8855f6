"""`EventClock`: outliers of event time do not move it, a change of time does, and neither stops it."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.event_clock import EventClock

START, DAY, YEARS = 1_700_000_000_000, 86_400_000, 70 * 365 * 86_400_000
LIMIT = 60_000


def clock_after(times: list[int]) -> EventClock:
    clock = EventClock(LIMIT)
    for event_time_ms in times:
        clock.advance(event_time_ms)
    return clock


def seconds(first_ms: int, count: int) -> list[int]:
    return [first_ms + 1000 * number for number in range(count)]


@pytest.mark.parametrize("outlier", [START + YEARS, START + DAY, START - DAY, 0, -YEARS])
def test_a_single_outlier_changes_nothing(outlier: int) -> None:
    times = seconds(START, 100)
    clock = clock_after([*times[:50], outlier, *times[50:]])
    assert clock.now_ms == times[-1]
    assert clock.num_outliers == 1


def test_late_records_do_not_hurry_the_clock() -> None:
    times = [time - late for time in seconds(START, 100) for late in (0, 30_000)]
    clock = clock_after(times)
    assert clock.now_ms == START + 99_000
    assert clock.num_outliers == 0


@pytest.mark.parametrize("wrong", [START + YEARS, START - YEARS])
def test_after_a_wrong_first_time_the_clock_runs(wrong: int) -> None:
    clock = clock_after([wrong, *seconds(START, 32)])
    before = clock.now_ms
    assert before is not None
    clock.advance(START + 40_000)
    assert clock.now_ms is not None
    assert 8_000 <= clock.now_ms - before <= 40_000


@pytest.mark.parametrize("first_wrong", [0, 5])
def test_a_tenth_of_wrong_times_neither_stops_nor_hurries_the_clock(first_wrong: int) -> None:
    times = [START + YEARS if n % 10 == first_wrong else START + 1000 * n for n in range(400)]
    now_ms, first_ms = clock_after(times).now_ms, times[0]
    assert now_ms is not None
    assert 350_000 <= now_ms - first_ms <= 400_000


def test_two_halves_a_day_apart_advance_the_clock_like_one() -> None:
    times = [START + 1000 * n - (n % 2) * DAY for n in range(400)]
    assert clock_after(times).now_ms == START + 398_000


def test_a_log_that_begins_again_a_day_back_is_followed_after_32_records() -> None:
    clock = clock_after([*seconds(START, 50), *seconds(START - DAY, 100)])
    assert clock.now_ms == START + 49_000 + 68_000
    assert clock.num_outliers == 32


def test_after_a_gap_the_clock_advances_by_the_limit_once() -> None:
    clock = clock_after([*seconds(START, 50), *seconds(START + DAY, 100)])
    assert clock.now_ms == START + 49_000 + LIMIT + 99_000


def test_records_further_apart_than_the_limit_advance_the_clock_by_the_limit_each() -> None:
    times = [START + number * 5 * LIMIT for number in range(100)]
    assert clock_after(times).now_ms == START + (100 - 32) * LIMIT


@given(st.lists(st.integers(-(1 << 62), 1 << 62) | st.integers(0, 3 * LIMIT), max_size=200), st.integers(0, 200))
def test_the_clock_never_goes_back_advances_by_the_limit_at_most_and_continues_from_its_state(
    times: list[int], cut: int
) -> None:
    clock = EventClock(LIMIT)
    shown = [clock.advance(event_time_ms) for event_time_ms in times]
    assert all(0 <= after - before <= LIMIT for before, after in pairwise(shown))
    resumed = EventClock(LIMIT)
    resumed.load_state(json.loads(json.dumps(clock_after(times[:cut]).to_state())))
    assert [resumed.advance(event_time_ms) for event_time_ms in times[cut:]] == shown[cut:]
