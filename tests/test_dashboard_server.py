"""`hotstream dashboard`: who may read it, what it sends, and what it reads of the past."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agent_driver import TOPICS
from aiohttp import ClientSession, CookieJar
from aiohttp.test_utils import TestClient, TestServer
from test_assignments_comparison import SMALL, run_shadow
from test_top_model import NOW_MS, reported_broker, send_metrics

from streams.assignments.comparison import compare_prefixes
from streams.assignments.subscription import HotFeatureTable
from streams.clients.in_memory import InMemoryBroker
from streams.dashboard.access import Access, is_loopback, read_token
from streams.dashboard.feed import Feed
from streams.dashboard.server import FEED, make_app, serve
from streams.dashboard.views import view_as_json
from streams.errors import ConfigError, StreamsError
from streams.records import TrainerMetrics
from streams.top.model import TopModel
from streams.top.view import ChangeLine, FeatureLine, FieldLine, View

TOKEN = "0123456789abcdef"
HOSTILE = '<img src=x onerror="alert(1)">\x1b[2J'
Client = TestClient[Any, Any]


@pytest.fixture
def broker() -> InMemoryBroker:
    return reported_broker()


@contextlib.asynccontextmanager
async def served(
    broker: InMemoryBroker, *, token: str | None = None, host: str = "127.0.0.1", **options: Any
) -> AsyncIterator[Client]:
    feed = Feed(lambda: TopModel(broker, clock_ms=lambda: NOW_MS), interval_s=0.05)
    app = make_app(broker, feed, Access(host, token), **options)
    session = TestClient(TestServer(app), cookie_jar=CookieJar(unsafe=True))
    try:
        async with session as client:
            yield client
            await feed.stop()
    finally:
        await feed.stop()


def run(broker: InMemoryBroker, test: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        async with served(broker, **options) as client:
            await test(client)

    asyncio.run(asyncio.wait_for(whole(), 60))


async def next_view(client: Client, is_wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
    async with client.get("/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        async for line in answer.content:
            if line.startswith(b"data: ") and is_wanted(view := json.loads(line[6:])):
                return dict(view)
    raise AssertionError("the stream ended before the wanted view")


async def read(client: Client, path: str, **query: str) -> dict[str, Any]:
    async with client.get(f"/api/{path}", params=query) as answer:
        assert answer.status == 200, await answer.text()
        return dict(await answer.json())


def test_the_events_and_the_history_have_the_models_view(broker: InMemoryBroker) -> None:
    async def test(client: Client) -> None:
        view = await next_view(client, lambda view: len(view["shards"]) == 2)
        with TopModel(broker, clock_ms=lambda: NOW_MS) as model:
            for _ in range(3):
                model.look()
            known = model.view()
        assert view["hot"] == known.hot
        assert [line["feature"] for line in view["features"]] == [line.feature for line in known.features]
        assert view["trainer"]["auc"] == {"adaptive": 0.75, "hash": 0.74}
        history = await read(client, "history")
        assert {len(column) for column in history.values()} == {len(history["time_ms"])}
        assert history["hot"][-1] == known.hot
        assert (await read(client, "config"))["shadow"] is None

    run(broker, test)


def test_a_story_has_every_change_of_its_feature_and_the_others_are_refused(broker: InMemoryBroker) -> None:
    async def test(client: Client) -> None:
        view = await next_view(client, lambda view: any(change["tier"] == "cold" for change in view["changes"]))
        name = next(change["feature"] for change in view["changes"] if change["tier"] == "cold")
        story = await read(client, "story", feature=name.lower())
        assert story["feature"] == name
        tiers = [event["tier"] for event in story["events"]]
        assert (tiers[0], "cold" in tiers) == ("hot", True)
        assert (await read(client, "story", feature=story["key"]))["events"] == story["events"]
        for feature, status in (("C1:ffffff00", 400), ("x" * 601, 400), ("", 400)):
            async with client.get("/api/story", params={"feature": feature}) as answer:
                assert answer.status == status

    run(broker, test)


def test_an_earlier_table_is_that_of_its_offsets_or_time(broker: InMemoryBroker) -> None:
    async def test(client: Client) -> None:
        span = await read(client, "span")
        ends = {number: end for number, (_, end) in span["offsets"].items()}
        middle = ",".join(f"{number}:{end // 2}" for number, end in ends.items())
        with HotFeatureTable(broker) as table:
            known = table.as_of({int(number): end // 2 for number, end in ends.items()})
        moments = {at: await read(client, "moment", at=at) for at in ("0:0,1:0", middle, str(span["times_ms"][0]))}
        assert [moment["hot"] for moment in moments.values()] == [0, known.num_hot, 0]
        assert known.num_hot > 0
        now = await read(client, "moment", at="2100-01-01T00:00")
        assert now["offsets"] == ends
        assert now["verified"] is True
        assert sum(field["hot"] for field in now["fields"]) == now["hot"] > 0
        async with client.get("/api/moment", params={"at": "yesterday"}) as answer:
            assert (answer.status, (await answer.json())["error"][:15]) == (400, "got 'yesterday'")

    run(broker, test)


def beside_a_shadow(broker: InMemoryBroker) -> dict[str, Any]:
    """Runs a shadow; returns the options of `served` that compare with it, as the command does."""
    run_shadow(broker)
    theirs = copy.copy(broker)
    theirs.prefix = TOPICS.shadow("small").prefix
    return {"compare": partial(compare_prefixes, broker, theirs, 1, records=0, top=3), "shadow": "small"}


def test_a_shadow_that_runs_is_compared_with_the_running_hot_set(broker: InMemoryBroker) -> None:
    options = beside_a_shadow(broker)

    async def test(client: Client) -> None:
        assert (await read(client, "config"))["shadow"] == "small"
        figures = await read(client, "compare")
        with TopModel(broker) as ours:
            ours.look_to_end(time.monotonic() + 30)
            assert figures["hot"][0] == ours.view().hot
        assert 0 < figures["hot"][1] <= SMALL.shards.capacity
        assert figures["in_both"] <= min(figures["hot"])
        assert all(rate > 0 for rate in figures["changes_per_million_events"])
        broker.delete_topic(TOPICS.shadow("small").assignments)
        async with client.get("/api/compare") as answer:
            assert (answer.status, "agent --shadow small" in (await answer.json())["error"]) == (503, True)

    run(broker, test, **options)


def test_without_a_page_the_history_goes_on_and_no_view_is_made(broker: InMemoryBroker) -> None:
    async def test(client: Client) -> None:
        feed = client.app[FEED]
        while len((await read(client, "history")).get("hot", [])) < 3:
            await asyncio.sleep(0.01)
        assert (feed.number, feed.latest) == (0, None)
        first = await next_view(client)
        assert (feed.number > 0, first["hot"]) == (True, (await read(client, "history"))["hot"][-1])
        while feed.latest is not None:  # the page has gone
            await asyncio.sleep(0.01)
        assert (await next_view(client))["time_ms"] > first["time_ms"]

    run(broker, test)


def test_names_and_numbers_of_topics_reach_the_page_as_harmless_text(broker: InMemoryBroker) -> None:
    trainer = TrainerMetrics(
        time_ms=NOW_MS, rows=1, rows_per_s=1.0, lag_records=0, hot=1, auc={HOSTILE * 9: 0.5},
        latency_ms={"assignment_to_trainer": {"p50": "<b>", "p99": None}},  # type: ignore[dict-item]
    )  # fmt: skip
    send_metrics(broker, trainer)

    async def test(client: Client) -> None:
        view = await next_view(client, lambda view: (view["trainer"] or {}).get("rows") == 1)
        (learner,) = view["trainer"]["auc"]
        assert learner.isprintable()
        assert len(learner) < 50
        assert "trainer_p50" not in view["sample"]

    run(broker, test)


def test_a_feature_of_markup_and_escapes_is_sent_as_printable_text() -> None:
    change = ChangeLine(feature=HOSTILE * 99, tier="hot", row=1, score=1.0, age_s=1.0)
    hot = FeatureLine(feature=HOSTILE, row=1, score=1.0, age_s=1.0, shard=0)
    field = FieldLine(field=HOSTILE, hot=1, promotions=1, demotions=0)
    view = View(
        hot=1, capacity=None, verified=None, recall=0.9, churn_per_min=1, promotions=1, demotions=0, features=(hot,),
        changes=(change,), fields=(field,), shards=(), latency_ms=None, trainer=None, trainer_silent_s=None,
    )  # fmt: skip
    sent = view_as_json(view)
    for text in (sent["features"][0]["feature"], sent["changes"][0]["feature"], sent["fields"][0]["field"]):
        assert text.isprintable()
        assert len(text) < 700


def test_no_script_makes_markup_of_text() -> None:
    for script in (Path(__file__).parent.parent / "streams" / "dashboard" / "static").glob("*.js"):
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script.read_text()
        )
        assert not found, script.name


def test_every_answer_has_the_headers_and_no_file_has_inline_code(broker: InMemoryBroker) -> None:
    async def test(client: Client) -> None:
        for path in ("/", "/login", "/style.css", "/page.js", "/charts.js", "/past.js", "/tables.js", "/icon.svg",
                     "/api/config", "/api/story", "/nothing", "/../server.py"):  # fmt: skip
            async with client.get(path) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'; script-src 'self';" in policy
                assert "unsafe" not in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert "aiohttp" not in answer.headers["Server"]
                text = await answer.text()
            assert "<style" not in text
            assert " style=" not in text
            assert " onclick" not in text
            assert "//" not in text.replace("//www.w3.org/2000/svg", "") or not path.endswith((".html", "/"))

    run(broker, test)


def test_without_a_token_only_loopback_names_are_answered(broker: InMemoryBroker) -> None:
    async def test(client: Client) -> None:
        for host, status in (("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 403)):
            async with client.get("/api/config", headers={"Host": host}) as answer:
                assert answer.status == status, host

    run(broker, test)


def test_a_token_is_asked_for_and_opens_the_page_by_header_or_form(broker: InMemoryBroker) -> None:
    async def test(client: Client) -> None:
        for path in ("/api/config", "/events", "/page.js"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "hotstream="}):
                async with client.get(path, headers=headers) as answer:
                    assert answer.status == 401, path
        async with client.get("/api/config", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            assert answer.status == 200
        async with client.get("/") as answer:
            assert "--token-file" in await answer.text()  # the form
        for token, path in (("wrong", "/login?refused"), (TOKEN, "/")):
            async with client.post("/login", data={"token": token}, allow_redirects=False) as answer:
                assert answer.headers["Location"] == path
        assert "HttpOnly" in answer.headers["Set-Cookie"]
        assert "SameSite=Strict" in answer.headers["Set-Cookie"]
        assert TOKEN not in answer.headers["Set-Cookie"]
        async with client.get("/api/config") as answer:
            assert answer.status == 200

    run(broker, test, token=TOKEN, host="0.0.0.0")  # noqa: S104


def test_an_address_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):  # noqa: S104
        assert not is_loopback(host)
        with pytest.raises(ConfigError, match="expected one where other machines can connect"):
            Access(host, None)
    for content in ("short\n", "", "ä" * 20):
        (tmp_path / "token").write_text(content)
        with pytest.raises(ConfigError, match="expected 16 or more"):
            read_token(tmp_path / "token")
    (tmp_path / "token").write_text(f"{TOKEN}\nsecond line\n")
    assert read_token(tmp_path / "token") == TOKEN
    with pytest.raises(ConfigError, match="expected a text file"):
        read_token(tmp_path / "missing")


def test_a_shadow_is_compared_on_demand(broker: InMemoryBroker) -> None:
    async def test(client: Client) -> None:
        assert await read(client, "compare") == {"in_both": 3}

    run(broker, test, compare=lambda: {"in_both": 3}, shadow="s")

    async def without(client: Client) -> None:
        async with client.get("/api/compare") as answer:
            assert answer.status == 404

    run(broker, without)


def test_the_server_names_its_address_and_ends_when_it_is_asked_to(broker: InMemoryBroker) -> None:
    async def whole() -> None:
        feed = Feed(lambda: TopModel(broker), interval_s=0.05)
        urls, app = list[str](), make_app(broker, feed, Access("127.0.0.1", None))
        is_read = asyncio.Event()

        async def read_page() -> None:
            while not urls:
                await asyncio.sleep(0.01)
            async with ClientSession() as session, session.get(f"{urls[0]}api/config") as answer:
                assert (await answer.json())["prefix"] == broker.prefix
            is_read.set()

        reading = asyncio.create_task(read_page())
        await serve(app, host="127.0.0.1", port=0, should_stop=is_read.is_set, say=urls.append)
        await reading

    asyncio.run(asyncio.wait_for(whole(), 60))


def test_the_server_ends_with_the_error_of_its_topics(broker: InMemoryBroker) -> None:
    broker.delete_topic(TOPICS.assignments)

    async def whole() -> None:
        feed = Feed(lambda: TopModel(broker))
        app = make_app(broker, feed, Access("127.0.0.1", None))
        await serve(app, host="127.0.0.1", port=0, should_stop=lambda: False, say=lambda _: None)

    with pytest.raises(StreamsError, match="run `hotstream topics create`"):
        asyncio.run(asyncio.wait_for(whole(), 60))
