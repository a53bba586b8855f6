"""Ready and healthy mean progress: of the broker, of the offsets, of the threads."""

from __future__ import annotations

import pytest

from streams.telemetry.health import Health


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    health = Health(clock)
    health.start("clicks", lambda: True)
    return health


def live(
    health: Health, clock: Clock, seconds: int, *, grows: int = 0, reads: int = 0, end: int = 0, at: int = 0
) -> None:
    """So many seconds with an answer in each, in which the log grows and the process reads."""
    for second in range(1, seconds + 1):
        clock.now_s += 1
        health.note_answer({0: end + grows * second}, {0: at + reads * second})


def test_a_process_is_not_ready_before_it_works(clock):
    health, is_started = Health(clock), []
    clock.now_s += 7
    assert health.why_not_ready() == "starting for 7 s"
    health.start("clicks", lambda: bool(is_started))
    health.note_answer({0: 5}, {0: 5})
    assert health.why_not_ready() == "starting for 7 s"
    is_started.append(1)
    assert health.why_not_ready() is None
    assert health.why_not_healthy() is None


def test_a_broker_that_does_not_answer_turns_ready_within_15_s_and_its_answer_turns_it_back(health, clock):
    live(health, clock, 3)
    assert health.why_not_ready() is None
    clock.now_s += 15
    assert health.why_not_ready() == "the broker has not answered for 15 s"
    assert health.why_not_healthy() is None, "a restart does not bring the broker back"
    live(health, clock, 1)
    assert health.why_not_ready() is None


def test_a_log_that_grows_before_a_reader_that_stands_still_is_no_progress(health, clock):
    live(health, clock, 40, grows=10, reads=10)
    live(health, clock, 61, grows=10, end=400, at=400)
    assert health.why_not_ready() == "clicks[0] has grown for 60 s, and nothing was read from offset 400 on"
    assert health.why_not_healthy() is None
    live(health, clock, 240, grows=10, end=1010, at=400)
    assert "nothing was read from offset 400 on" in str(health.why_not_healthy())
    live(health, clock, 1, end=3420, at=401)
    assert health.why_not_ready() is None


@pytest.mark.parametrize("tail", [1, 5000])
def test_a_reader_that_stays_before_the_end_is_no_fault(health, clock, tail):
    """The end of a transaction takes an offset, and so do the records of an aborted one; they never arrive."""
    live(health, clock, 10, grows=1, reads=1)
    live(health, clock, 1000, end=10 + tail, at=10)
    assert health.why_not_ready() is None
    assert health.why_not_healthy() is None


def test_a_partition_that_another_process_reads_now_does_not_count(health, clock):
    live(health, clock, 400, grows=10)
    assert health.why_not_healthy() is not None
    health.note_answer({0: 5000}, {})
    assert health.why_not_ready() is None


def test_a_thread_that_died_makes_a_process_unhealthy(health, clock):
    live(health, clock, 1)
    health.note_death("outbox")
    assert health.why_not_healthy() == health.why_not_ready() == "ended with an error: the threads outbox"
