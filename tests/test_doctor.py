"""`hotstream doctor` finds what is missing, and `--dry-run` shows what would run and changes nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from processes import run_hotstream

from streams.agent.agreement import Agreement
from streams.agent.dry_run import plan_agent
from streams.agent.shard_config import ShardConfig
from streams.agent.worker import AgentConfig
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.doctor.cluster import look_at_cluster
from streams.doctor.findings import FAULT, GOOD, MISSING, Finding
from streams.doctor.installation import check_package
from streams.doctor.machine import check_disk
from streams.errors import ConfigError
from streams.keys import CRITEO_FIELDS
from streams.logs.schema import SCHEMAS
from streams.records import AgentMetrics, ShardMetrics, TrainerMetrics, encode_metrics
from streams.topics import Topics
from trainer.learning.model_config import ModelConfig
from trainer.process.dry_run import plan_run
from trainer.process.run import RunConfig

TOPICS = Topics()
SHARDS = ShardConfig(capacity=100, num_shards=2)
AGENT = AgentConfig(shards=SHARDS, schema=SCHEMAS["criteo-kaggle"], signals=frozenset({"frequency"}))


@pytest.fixture
def broker() -> InMemoryBroker:
    broker = InMemoryBroker()
    create_topics(broker, TOPICS.specs(click_partitions=3, shards=2))
    return broker


def agreement_of(broker: InMemoryBroker, shards: ShardConfig = SHARDS) -> Agreement:
    return Agreement(broker, shards, group=AGENT.group, signals=AGENT.signals)


def look(broker: InMemoryBroker) -> dict[str, Finding]:
    return {finding.name: finding for finding in look_at_cluster(broker)}


def report(broker: InMemoryBroker, metrics: AgentMetrics | TrainerMetrics) -> None:
    value, headers = encode_metrics(metrics)
    with RecordProducer(broker) as producer:
        producer.send(TOPICS.metrics, 0, value, headers)


# ---- doctor --------------------------------------------------------------------------------------------------------


def test_a_missing_topic_and_a_wrong_setting_are_faults_with_the_command_that_mends_them():
    broker = InMemoryBroker()
    specs = [spec for spec in TOPICS.specs(click_partitions=3, shards=2) if spec.name != TOPICS.metrics]
    create_topics(broker, specs)
    broker.configs[TOPICS.assignments]["cleanup.policy"] = "delete"
    found = look(broker)
    assert found["broker"].state == GOOD
    assert found[f"topic {TOPICS.clicks}"] == Finding(name=f"topic {TOPICS.clicks}", state=GOOD, found="3 partitions")
    missing, wrong = found[f"topic {TOPICS.metrics}"], found[f"topic {TOPICS.assignments}"]
    assert (missing.state, missing.found, missing.mend) == (FAULT, "missing", "hotstream topics create")
    assert (wrong.state, wrong.found) == (FAULT, "cleanup.policy delete, expected compact")


def test_agents_that_never_started_and_agents_that_ended_are_missing(broker):
    assert look(broker)["agents"].state == MISSING
    agreement_of(broker).join()
    found = look(broker)
    assert "capacity 100" in found["agents"].found
    assert found[f"group {AGENT.group}"].state == MISSING
    assert "--capacity 100" in found[f"group {AGENT.group}"].mend


def test_the_lag_of_shards_and_trainer_is_that_of_their_newest_report(broker):
    agreement_of(broker).join()
    with RecordProducer(broker) as producer:
        for _ in range(5):
            producer.send(TOPICS.importance, 1, b"importance", [])
    now_ms = int(time.time() * 1000)
    names = dict.fromkeys(ShardMetrics.__dataclass_fields__, 0)
    for time_ms, offset in ((now_ms - 60_000, 1), (now_ms, 2)):
        shards = {1: ShardMetrics(**{**names, "next_offset": offset})}
        report(broker, AgentMetrics(time_ms=time_ms, capacity=100, bad=0, shards=shards))
    report(broker, TrainerMetrics(time_ms=now_ms - 90_000, rows=64, rows_per_s=1.0, lag_records=7, hot=0))
    found = look(broker)
    assert found["shard 1"].state == GOOD
    assert found["shard 1"].found.startswith("3 importance records behind")
    assert found["trainer"].state == MISSING
    assert found["trainer"].found.startswith("7 click records behind, 64 rows trained; reported 9")


def test_a_process_whose_clock_is_ahead_is_a_fault(broker):
    agreement_of(broker).join()
    ahead_ms = int(time.time() * 1000) + 600_000
    report(broker, TrainerMetrics(time_ms=ahead_ms, rows=64, rows_per_s=1.0, lag_records=7, hot=0))
    assert look(broker)["trainer"].state == FAULT


def test_looking_writes_nothing(broker):
    agreement_of(broker).join()
    before = broker.num_sent
    look(broker)
    assert broker.num_sent == before


def test_a_package_is_missing_only_for_what_needs_it():
    assert check_package(Requirement("numpy>=1")).state == GOOD
    old = check_package(Requirement("numpy>=999"))
    assert (old.state, old.mend) == (FAULT, "pip install 'numpy>=999'")
    absent = check_package(Requirement("calfkit-no-such>=1"), "embedded")
    assert (absent.state, absent.mend) == (MISSING, "pip install 'hotstream[embedded]'")
    assert absent.found == "not installed, expected >=1"


def test_a_full_disk_is_found_also_for_a_folder_that_is_still_to_be_made(tmp_path):
    assert check_disk("checkpoints", tmp_path / "a" / "b", least_bytes=1).state == GOOD
    full = check_disk("checkpoints", tmp_path / "a", least_bytes=1 << 60)
    assert full.state == MISSING
    assert str(tmp_path) in full.mend


def test_without_a_broker_the_report_is_complete_and_the_exit_code_is_1(tmp_path):
    done = run_hotstream("doctor", "--bootstrap-servers", "127.0.0.1:1", "--json", tmp_path / "report.json")
    assert done.returncode == 1, done.stderr
    findings = json.loads((tmp_path / "report.json").read_text())["findings"]
    assert [finding["name"] for finding in findings if finding["state"] == FAULT] == ["broker"]
    assert {"python", "torch", "java", "gpu", "clock"} <= {finding["name"] for finding in findings}
    assert all(finding["mend"] for finding in findings if finding["state"] != GOOD)
    assert "hotstream broker" in done.stdout


# ---- dry runs ------------------------------------------------------------------------------------------------------


def test_a_dry_run_of_an_agent_shows_its_configuration_and_records_none(broker):
    before = broker.num_sent
    plan = plan_agent(broker, AGENT, agreement_of(broker).preview())
    assert broker.num_sent == before
    assert (plan["capacity"], plan["shards"], plan["signals"]) == (100, 2, "frequency")
    assert plan["reads"] == f"{TOPICS.clicks}, {TOPICS.importance}, {TOPICS.control}"
    assert plan["half_life"] == "50,000 feature events of a shard"
    assert "number 1" in plan["configuration"]


def test_a_dry_run_of_an_agent_with_another_configuration_ends_as_the_agent_would(broker):
    agreement_of(broker).join()
    assert "equal to number 1" in agreement_of(broker).preview()
    other = agreement_of(broker, ShardConfig(capacity=101, num_shards=2))
    with pytest.raises(ConfigError, match="capacity"):
        other.preview()
    before = broker.num_sent
    assert "capacity" in other.preview(begins_epoch=True)
    assert broker.num_sent == before


@pytest.mark.parametrize(
    ("numbers", "resume", "begins"),
    [
        ([], True, "with new weights; checkpoints go to"),
        ([7, 30], True, "from checkpoint 30"),
        ([7, 30], False, "with new weights; --fresh deletes 2 checkpoints"),
    ],
)
def test_a_dry_run_of_a_trainer_shows_its_sizes_and_leaves_the_checkpoints(
    broker, tmp_path: Path, numbers, resume, begins
):
    for number in numbers:
        (tmp_path / f"{number:08}").mkdir()
    model = ModelConfig(capacity_rows=100)
    run = RunConfig(model=model, device=torch.device("cpu"), checkpoint_dir=tmp_path)
    plan = plan_run(broker, run, CRITEO_FIELDS, 13, resume=resume)
    assert plan["unique_rows"] == 100
    assert plan["embedding_bytes"] == model.plan(26).nbytes["total"]
    assert plan["reads"] == {TOPICS.clicks: 3, TOPICS.assignments: 2}
    assert plan["begins"].startswith(begins)
    assert len(list(tmp_path.iterdir())) == len(numbers)
