"""`hotstream agent --group-instance-id` on Apache Kafka: an agent that comes back keeps its shards."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from processes import Metrics, Running, running, wait_until, where
from test_agent_broker import OPTIONS, SHARDS, send_importance, with_topics

from streams.broker.process import BrokerProcess


def times_loaded(agent: Running) -> int:
    return agent.log.read_text().count("continues at offset")


def test_an_agent_that_is_killed_and_comes_back_under_its_name_keeps_its_shards_and_the_other_does_not_notice(
    apache_broker: BrokerProcess, topic_prefix: str, tmp_path: Path
) -> None:
    kafka = with_topics(apache_broker.bootstrap_servers, topic_prefix)
    arguments = ("agent", *OPTIONS, "--session-timeout", 60, "--group", topic_prefix, *where(kafka))

    def start(stack: ExitStack, name: str, life: int) -> Running:
        log = tmp_path / f"{name}-{life}.log"
        return stack.enter_context(running(log, *arguments, "--group-instance-id", name))

    with ExitStack() as stack, Metrics(kafka) as metrics:
        agents = [start(stack, name, 1) for name in ("one", "two")]

        def both_work() -> bool:
            metrics.look()
            return sorted(str(set(report["shards"])) for report in metrics.reports[-2:]) == ["{'0'}", "{'1'}"]

        def all_counted(records: int) -> bool:
            return metrics.total("next_offset") >= records * SHARDS

        wait_until(both_work, *agents)
        send_importance(kafka, range(4))
        wait_until(lambda: all_counted(4), *agents)
        loaded = times_loaded(agents[1])
        agents[0].kill()
        again, killed_s = start(stack, "one", 2), time.monotonic()
        send_importance(kafka, range(4, 8))
        wait_until(lambda: all_counted(8), again, agents[1])
        assert time.monotonic() - killed_s < 60  # the others would have taken the shard over after that time
        assert (times_loaded(again), times_loaded(agents[1])) == (1, loaded)
