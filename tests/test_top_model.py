"""`hotstream top`: its model agrees with the topics, and its screen shows the model."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest
from agent_driver import GRADIENT, SHARDS, STEPS, TOPICS, broker_with_importance
from test_assignments_rereading import count
from textual.widgets import DataTable, Input, Static

from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.records import AgentMetrics, TrainerMetrics, encode_metrics
from streams.top.app import TopApp, _Looked
from streams.top.model import TopModel
from streams.top.plain import print_lines
from streams.top.view import View
from streams.top.words import describe_hot_set

NOW_MS = 1_700_000_000_000


def send_metrics(broker: InMemoryBroker, *metrics: AgentMetrics | TrainerMetrics) -> None:
    with RecordProducer(broker) as producer:
        for one in metrics:
            value, headers = encode_metrics(one)
            producer.send(TOPICS.metrics, 0, value, headers)


def reported_broker() -> InMemoryBroker:
    """A broker with the changes of an agent, and the reports of agent and trainer."""
    broker = broker_with_importance()
    worker = count(broker, 0, STEPS)
    shards = worker.metrics().shards
    before = {number: type(shard)(**{**vars(shard), "events": 0}) for number, shard in shards.items()}
    send_metrics(
        broker,
        AgentMetrics(time_ms=NOW_MS - 2000, capacity=GRADIENT.shards.capacity, bad=0, shards=before),
        AgentMetrics(time_ms=NOW_MS, capacity=GRADIENT.shards.capacity, bad=0, shards=shards),
        TrainerMetrics(
            time_ms=NOW_MS,
            rows=6400,
            rows_per_s=12345.0,
            lag_records=3,
            hot=2,
            auc={"adaptive": 0.75, "hash": 0.74},
            unique_share=0.62,
        ),
    )
    return broker


@pytest.fixture
def broker() -> InMemoryBroker:
    return reported_broker()


def view_of(broker: InMemoryBroker, *, now_ms: int = NOW_MS, search: str = "") -> View:
    with TopModel(broker, clock_ms=lambda: now_ms) as model:
        for _ in range(3):
            model.look()
        return model.view(search=search)


def test_a_view_has_the_hot_set_and_the_reports_of_the_topics(broker: InMemoryBroker) -> None:
    view = view_of(broker)
    assert (view.hot, view.capacity, view.verified) == (len(view.features), GRADIENT.shards.capacity, True)
    assert view.promotions - view.demotions == view.hot == sum(line.hot for line in view.fields)
    assert [line.score for line in view.features] == sorted((line.score for line in view.features), reverse=True)
    assert [line.shard for line in view.shards] == list(range(SHARDS))
    assert all(line.is_verified and line.lag == 0 and line.silent_s is None for line in view.shards)
    assert all(line.events_per_s for line in view.shards)
    assert view.trainer is not None
    assert view.trainer.unique_share == 0.62
    assert view.recall is not None
    assert f"recall ~{view.recall:.0%}; " in describe_hot_set(view)


def test_only_the_changes_of_the_last_minute_are_counted_and_the_newest_come_first(broker: InMemoryBroker) -> None:
    for shard, age_ms in ((0, 1000), (1, 120_000)):  # a reader gets all of a partition before it gets the next one
        log = broker.partition(TOPICS.assignments, shard)
        log.records = [record._replace(timestamp=NOW_MS - age_ms) for record in log.records]
    view = view_of(broker)
    assert view.churn_per_min == view.shards[0].seq > 0
    assert view.latency_ms is not None
    assert [line.age_s for line in view.changes] == sorted(line.age_s for line in view.changes)


def test_a_process_that_reports_no_more_is_silent_and_importance_that_waits_is_lag(broker: InMemoryBroker) -> None:
    with RecordProducer(broker) as producer:
        producer.send(TOPICS.importance, 1, b"not counted yet", [])
    view = view_of(broker, now_ms=NOW_MS + 60_000)
    assert [line.lag for line in view.shards] == [0, 1]
    assert {line.silent_s for line in view.shards} == {view.trainer_silent_s} == {60.0}


def test_a_search_leaves_the_features_that_contain_it(broker: InMemoryBroker) -> None:
    every, found = view_of(broker), view_of(broker, search="c2:")
    names = {line.feature for line in found.features}
    assert names == {line.feature for line in every.features if line.feature.startswith("C2:")}
    assert 0 < len(names) < len(every.features)
    assert all("C2:" in line.feature for line in found.changes)


def test_without_reports_the_lines_name_what_to_start() -> None:
    broker, lines = broker_with_importance(), list[str]()
    with TopModel(broker) as model:
        print_lines(model, lines.append, interval_s=0.01, should_stop=lambda: len(lines) == 2)
    assert len(lines) == 2
    assert re.search(r"hot 0; .*start `hotstream agent`.*start `hotstream train`", lines[0])


def test_the_lines_of_a_large_system_fit_80_columns(broker: InMemoryBroker) -> None:
    large = replace(view_of(broker), hot=999_999, capacity=1_000_000, recall=1.0, churn_per_min=99_999)
    for verified in (True, False, None):
        assert len(describe_hot_set(replace(large, verified=verified))) <= 80


def test_the_screen_shows_the_view_filters_and_pauses(broker: InMemoryBroker) -> None:
    async def run() -> None:
        app = TopApp(lambda: TopModel(broker, clock_ms=lambda: NOW_MS), title="top", interval_s=0.2)
        async with app.run_test(size=(80, 24)) as pilot:
            features = app.query_one("#table-features", DataTable)

            async def until(is_true: object) -> None:
                while not is_true():  # type: ignore[operator]
                    await pilot.pause(0.01)

            whole = len(view_of(broker).features)
            await until(lambda: features.row_count == whole)
            assert not app.screen.show_vertical_scrollbar
            summary = str(app.query_one("#summary", Static).render())
            assert "unique rows 62%; AUC 0.7500 (hash 0.7400)" in summary
            assert all(len(line) <= 80 for line in summary.splitlines()), summary
            line = app.query_one("#line", Input)
            await pilot.press("slash")
            line.value = "C2:"
            await pilot.press("enter")
            await until(lambda: {features.get_row_at(row)[0].plain[:3] for row in range(features.row_count)} == {"C2:"})
            await pilot.press("escape")
            await until(lambda: features.row_count == whole)
            await pilot.press("s")
            line.value = "c1"  # C1, C10 to C19
            found = list[int]()
            for key in ("enter", "n"):
                await pilot.press(key)
                await until(lambda: features.cursor_row not in (0, *found))
                found.append(features.cursor_row)
            assert all(features.get_row_at(row)[0].plain.startswith("C1") for row in found)
            assert features.row_count == whole
            await pilot.press("question_mark")
            assert "Ctrl-F" in str(app.screen.query_one(Static).render())
            await pilot.press("escape", "4", "space")
            assert app.query_one("#table-shards", DataTable).row_count == SHARDS
            assert "PAUSED" in str(app.query_one("#title", Static).render())
            await app.query_one("#summary").remove()  # as at the end, when a last view may come
            app.post_message(_Looked(view_of(broker)))
            await pilot.pause()
            await pilot.press("q")
        assert app.error is None

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("is_set", [True, False])
def test_no_color_draws_greys_only(broker: InMemoryBroker, monkeypatch: pytest.MonkeyPatch, *, is_set: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if is_set:
        monkeypatch.setenv("NO_COLOR", "1")

    async def run() -> set[str]:
        app = TopApp(lambda: TopModel(broker, clock_ms=lambda: NOW_MS), title="top", interval_s=0.2)
        async with app.run_test(size=(80, 24)) as pilot:
            while not app.query_one("#table-features", DataTable).row_count:
                await pilot.pause(0.01)
            return set(re.findall(r"-r\d+ \{ fill: (#[0-9a-f]{6})", app.export_screenshot()))

    colours = asyncio.run(asyncio.wait_for(run(), 60))
    assert colours
    parts = [[int(colour[first : first + 2], 16) for first in (1, 3, 5)] for colour in colours]
    is_grey = [max(part) - min(part) < 4 for part in parts]  # the picture itself has one that is nearly grey
    assert all(is_grey) if is_set else not all(is_grey)


def test_a_topic_that_goes_away_ends_the_view_with_its_error(broker: InMemoryBroker) -> None:
    broker.delete_topic(TOPICS.assignments)

    async def run() -> TopApp:
        app = TopApp(lambda: TopModel(broker), title="top")
        async with app.run_test() as pilot:
            while app.error is None:
                await pilot.pause(0.01)
        return app

    app = asyncio.run(asyncio.wait_for(run(), 60))
    assert "run `hotstream topics create`" in str(app.error)
