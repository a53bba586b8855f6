"""Commands on a Kafka that demands TLS, a login and rights: each runs with its least rights, and none without one."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, write
from kafka.admin import ACLOperation, ResourceType
from processes import read_topic, run_hotstream, running, wait_until, write_criteo_log
from secured_kafka import SECRET, Right, SecuredKafka, role_rights

from streams.clients.admin import create_topics
from streams.clients.producer import RecordProducer
from streams.topics import Topics
from trainer.cli import main

pytestmark = pytest.mark.broker

PREFIX, SHADOW = "matrix", "matrix.shadow.s"
GROUP = "hotstream-agent"
LOG = "LOG"  # instead of a path
AGENT = ("agent", "--capacity", "100")
DEADLINE_S = 60.0  # a refusal takes 0.3 s; the import of torch on a busy machine 15 s


@dataclass(frozen=True)
class Role:
    """What a role runs, and all that it needs."""

    command: tuple[str, ...]
    rights: frozenset[Right]
    replay_ids: str = ""


def role(command: tuple[str, ...], *roles: str, prefix: str = PREFIX, group: str = "", replay_ids: str = "") -> Role:
    groups = {(ACLOperation.READ, ResourceType.GROUP, group)} if group else set()
    return Role(command, frozenset(role_rights(prefix, *roles) | groups), replay_ids)


def dead_letter_rights(*operations: tuple[str, str]) -> frozenset[Right]:
    return frozenset((ACLOperation[right], ResourceType.TOPIC, topic) for right, topic in operations)


READS_LETTERS = ("READ", f"{PREFIX}.clicks.dlq")
RUNS = {
    "replay": role(("replay", LOG), "replay", replay_ids=Topics(PREFIX).replay_id("")),
    "agent": role(AGENT, "agent", group=GROUP),
    "frequency": role((*AGENT, "--signal", "frequency"), "agent", "frequency", group=GROUP),
    "shadow": role((*AGENT, "--shadow", "s"), "shadow", prefix=SHADOW, group=f"{GROUP}.shadow.s"),
    "train": role(("train", "--capacity", "100"), "train"),
    "subscribe": role(("watch", "--until-end"), "subscribe"),
    "names": role(("watch", "--until-end", "--values"), "subscribe", "names"),
    "values": role(("values", LOG, "--schema", "criteo-kaggle"), "values"),
    "compare": Role(("compare", "s"), frozenset(role_rights(PREFIX, "compare") | role_rights(SHADOW, "compare"))),
    "top": role(("top", "--plain"), "top"),
    "dashboard": role(("dashboard", "--port", "0"), "top"),
    "observe": role(("demo", "--quiet", "--data", LOG), "replay", "agent", "train", "observe", group=GROUP),
    "dlq show": Role(("dlq", "show", "clicks"), dead_letter_rights(READS_LETTERS)),
    "dlq replay": Role(("dlq", "replay", "clicks"), dead_letter_rights(READS_LETTERS, ("WRITE", f"{PREFIX}.clicks"))),
}
CASES = [(name, right) for name, run in RUNS.items() for right in sorted(run.rights, key=str)]


def words(right: Right) -> str:
    operation, kind, name = right
    return f"{operation.name} on {kind.name.lower()} {name}"


def user_of(name: str, without: Right) -> str:
    return f"{name} without {words(without)}".replace(" ", "-")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_criteo_log(tmp_path_factory.mktemp("log") / "clicks.tsv", 300)
    with path.open("a") as file:
        file.write("malformed\n")
    return path


@pytest.fixture(scope="module")
def matrix(secured: SecuredKafka) -> SecuredKafka:
    """The broker with topics, and with a user for each right of each role who has all its rights but that one."""
    for prefix in (PREFIX, SHADOW):
        create_topics(secured.admin(prefix), [*Topics(prefix).specs(), Topics(prefix).values_spec()])
    secured.allow_all({f"CN={user_of(name, right)}": RUNS[name].rights - {right} for name, right in CASES})
    return secured


def options(kafka: SecuredKafka, folder: Path, properties: dict[str, str], prefix: str = PREFIX) -> list[str]:
    """The options with which a command connects by these properties."""
    escaped = {name: value.replace("\n", "\\n") for name, value in properties.items()}
    file = folder / f"{time.monotonic_ns()}.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in escaped.items()))
    servers = kafka.ssl_servers if properties["security.protocol"] == "SSL" else kafka.sasl_servers
    return ["--config", str(file), "--bootstrap-servers", servers, "--prefix", prefix]


class Runner:
    """Runs commands in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: Any, caplog: Any, log: Path) -> None:
        self._monkeypatch, self._capsys, self._caplog, self._log = monkeypatch, capsys, caplog, log

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        """Exit code and lines of the output; log lines of libraries included."""
        line = [str(self._log) if argument == LOG else argument for argument in arguments]
        if {"demo", "bench"} & set(line):  # they start a broker, or use one that runs
            line = ["--broker" if argument == "--bootstrap-servers" else argument for argument in line]
        self._monkeypatch.setattr(sys, "argv", ["hotstream", *line])
        self._caplog.clear()
        started_s = time.monotonic()
        with pytest.raises(SystemExit) as ended:
            main()
        assert time.monotonic() - started_s < DEADLINE_S
        shown = self._capsys.readouterr()
        logged = [record.getMessage() for record in self._caplog.records]
        return int(ended.value.code or 0), [*shown.out.splitlines(), *shown.err.splitlines(), *logged]

    def refusal(self, *arguments: str) -> str:
        """The only line of a command that ends with exit code 1."""
        code, lines = self.run(*arguments)
        assert (code, len(lines)) == (1, 1), lines
        return lines[0]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, capsys: Any, caplog: Any, log: Path, tmp_path: Path) -> Iterator[Runner]:
    monkeypatch.chdir(tmp_path)  # `demo` writes there
    handler = signal.getsignal(signal.SIGTERM)  # `demo` has its own
    with caplog.at_level("INFO"):
        yield Runner(monkeypatch, capsys, caplog, log)
    signal.signal(signal.SIGTERM, handler)


# ---- each right taken away alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "right"), CASES, ids=[f"{name}-{words(right)}" for name, right in CASES])
def test_a_command_without_one_right_names_it_and_ends(matrix, runner, tmp_path, name, right):
    connection = options(matrix, tmp_path, matrix.certificate(user_of(name, right)))
    line = runner.refusal(*RUNS[name].command, *connection)
    assert line.endswith(f"this user lacks {words(right)}; have it allowed (docs/security.md)")


@pytest.mark.parametrize("name", ["frequency", "train"])
def test_a_process_without_a_right_prints_one_line(matrix, tmp_path, name):
    right = min(RUNS[name].rights, key=str)
    connection = options(matrix, tmp_path, matrix.certificate(user_of(name, right)))
    done = run_hotstream(*RUNS[name].command, *connection)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert f"lacks {words(right)}; " in done.stderr


def test_a_replay_without_its_transactional_id_names_it_and_sends_nothing(matrix, runner, tmp_path):
    matrix.allow(*RUNS["replay"].rights, user="CN=no-id")
    line = runner.refusal(*RUNS["replay"].command, *options(matrix, tmp_path, matrix.certificate("no-id")))
    assert f"lacks WRITE on transactional id {RUNS['replay'].replay_ids}" in line
    assert not read_topic(matrix.admin(PREFIX), f"{PREFIX}.clicks")[0]


def test_topics_that_may_not_be_created_or_described_are_named(matrix, runner, tmp_path):
    connection = options(matrix, tmp_path, matrix.certificate("nobody"))
    assert f"lacks DESCRIBE on topic {PREFIX}.assignments, " in runner.refusal("topics", "describe", *connection)
    assert "lacks CREATE on the cluster" in runner.refusal("topics", "create", *connection)


# ---- logins ----------------------------------------------------------------------------------------------------------

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_right_password_is_accepted_and_a_wrong_one_refused_once(matrix, runner, tmp_path, mechanism):
    matrix.allow(*dead_letter_rights(READS_LETTERS))
    good = options(matrix, tmp_path, matrix.login(mechanism=mechanism))
    assert runner.run("dlq", "show", "clicks", *good)[0] == 0
    before = matrix.num_refused_logins()
    bad = options(matrix, tmp_path, matrix.login(mechanism=mechanism, secret="wr0ng"))
    assert "the broker refused the login; check user name and password" in runner.refusal("dlq", "show", "clicks", *bad)
    assert matrix.num_refused_logins() - before == 1


@pytest.mark.parametrize("name", RUNS)
def test_a_wrong_password_ends_each_command_after_one_attempt(matrix, runner, tmp_path, name):
    before = matrix.num_refused_logins()
    bad = options(matrix, tmp_path, matrix.login(mechanism="SCRAM-SHA-512", secret="wr0ng"))
    line = runner.refusal(*RUNS[name].command, *bad)
    assert "the broker refused the login; check user name and password" in line
    assert matrix.num_refused_logins() - before == 1


@pytest.mark.parametrize("name", RUNS)
def test_debug_messages_of_a_refused_login_show_no_secret(matrix, runner, tmp_path, caplog, name):
    bad = options(matrix, tmp_path, matrix.login(mechanism="PLAIN", secret="wr0ng"))
    with caplog.at_level("DEBUG"):
        code, lines = runner.run("-v", *RUNS[name].command, *bad)
    assert code == 1
    assert not [line for line in lines if "wr0ng" in line]


def test_the_benchmark_of_the_pipeline_reads_the_properties(matrix, runner, tmp_path):
    bad = options(matrix, tmp_path, matrix.login(secret="wr0ng"))
    code, lines = runner.run("bench", "pipeline", "--rows", "1000", *bad)
    assert code == 1
    assert "the broker refused the login" in lines[-1]


def test_a_mechanism_that_the_listener_does_not_offer_is_named(matrix, runner, tmp_path):
    connection = options(matrix, tmp_path, matrix.login(mechanism="SCRAM-SHA-512"))
    connection[connection.index("--bootstrap-servers") + 1] = matrix.plain_servers
    assert "does not offer sasl.mechanism=SCRAM-SHA-512" in runner.refusal("dlq", "show", "clicks", *connection)


@pytest.mark.parametrize(
    "names", [("ssl.truststore.certificates",), ("ssl.keystore.key", "ssl.keystore.certificate.chain")]
)
def test_a_foreign_authority_and_a_missing_or_foreign_certificate_are_named(matrix, runner, tmp_path, names):
    stranger, properties = Authority("stranger"), matrix.certificate("alice")
    identity = stranger.issue("alice")
    foreign = {
        "ssl.truststore.certificates": stranger.pem,
        "ssl.keystore.key": identity.key_pem(),
        "ssl.keystore.certificate.chain": identity.pem,
    }
    changed = [properties | {name: foreign[name] for name in names}]
    why = "certificate is not trusted"
    if len(names) == 2:
        why = "the certificate in ssl.keystore.location"
        changed.append({name: value for name, value in properties.items() if name not in names})
    for wrong in changed:
        assert why in runner.refusal("dlq", "show", "clicks", *options(matrix, tmp_path, wrong))


@pytest.mark.parametrize("kind", ["PKCS12", "PEM"])
def test_a_java_client_properties_file_works_as_it_is(matrix, runner, tmp_path, kind):
    matrix.allow(*dead_letter_rights(READS_LETTERS), user="CN=java")
    identity, password = matrix.authority.issue("java"), "store-" + SECRET
    if kind == "PEM":
        trust = write(tmp_path / "trust.pem", matrix.authority.pem)
        store = write(tmp_path / "store.pem", identity.key_pem(password) + identity.pem)
        keys = f"ssl.key.password={password}\n"
    else:
        trust = write(tmp_path / "trust.p12", matrix.authority.pkcs12(password))
        store = write(tmp_path / "store.p12", identity.pkcs12(password))
        keys = f"ssl.truststore.password = {password}\nssl.keystore.password: {password}\n"
    (tmp_path / "client.properties").write_text(
        f"# as for Java\nsecurity.protocol=SSL\nclient.id=java\nssl.truststore.type={kind}\nssl.keystore.type={kind}\n"
        f"ssl.truststore.location={trust}\nssl.keystore.location \\\n    {store}\n{keys}"
    )
    connection = [
        "--config",
        str(tmp_path / "client.properties"),
        "--prefix",
        PREFIX,
        "--bootstrap-servers",
        matrix.ssl_servers,
    ]
    assert runner.run("dlq", "show", "clicks", *connection)[0] == 0


# ---- each role with exactly its rights -------------------------------------------------------------------------------


def poison(kafka: SecuredKafka, prefix: str) -> None:
    """Puts a malformed record on each topic that has dead letters."""
    topics = Topics(prefix)
    with RecordProducer(kafka.admin(prefix)) as producer:
        for topic in (topics.clicks, topics.importance, topics.assignments):
            producer.send(topic, 0, b"malformed", [], key=b"malformed")


def rights_in(kafka: SecuredKafka, user: str, prefix: str) -> set[Right]:
    """What a user has read and written under a prefix."""
    return {
        (ACLOperation[operation], ResourceType[kind.upper()], name)
        for operation, kind, name in kafka.used_rights(user)
        if operation in {"READ", "WRITE"} and kind != "TransactionalId" and name.startswith(prefix)
    }


def test_each_role_runs_with_exactly_its_rights_uses_each_and_shows_no_secret(secured, topic_prefix, tmp_path, log):
    topics, shadow = Topics(topic_prefix), Topics(topic_prefix).shadow("s")
    for names in (topics, shadow):
        create_topics(secured.admin(names.prefix), [*names.specs(), names.values_spec()])
    group, shadow_group = topic_prefix, f"{topic_prefix}.shadow.s"
    needed = {
        "replay": role_rights(topic_prefix, "replay"),
        "agent": role((), "agent", "frequency", prefix=topic_prefix, group=group).rights,
        "shadow": role((), "shadow", prefix=shadow.prefix, group=shadow_group).rights,
        "train": role_rights(topic_prefix, "train"),
        "subscribe": role_rights(topic_prefix, "subscribe", "names"),
        "values": role_rights(topic_prefix, "values"),
        "compare": role_rights(topic_prefix, "compare") | role_rights(shadow.prefix, "compare"),
    }
    secured.allow_all(needed)
    secured.allow(
        (ACLOperation.WRITE, ResourceType.TRANSACTIONAL_ID, topics.replay_id("")), user="replay", is_prefix=True
    )
    connection = {
        name: options(secured, tmp_path, secured.login(name, mechanism=mechanism), topic_prefix)
        for name, mechanism in zip(needed, cycle(MECHANISMS))
    }
    poison(secured, topic_prefix)
    counting = ["-v", *AGENT, "--group", group, "--snapshot-every", 2]
    done, shown = [], []
    with ExitStack() as stack:
        agents = []
        for name, chosen in (("agent", ()), ("shadow", ("--shadow", "s"))):
            started = running(tmp_path / f"{name}.log", *counting, "--signal", "both", *chosen, *connection[name])
            agents.append(stack.enter_context(started))
        rows = ("--batch-rows", 25, "--loop", "--limit", 1800, "--json", tmp_path / "replay.json")
        done.append(run_hotstream("-v", "replay", log, *rows, *connection["replay"]))
        for names in (topics, shadow):
            wait_until(lambda topic=names.snapshots: bool(read_topic(secured.admin(topic_prefix), topic)[0]), *agents)
        letters = topics.dead_letters(topics.importance)
        wait_until(lambda: bool(read_topic(secured.admin(topic_prefix), letters)[0]), *agents)
        shown += [Path(f"/proc/{agent.process.pid}/cmdline").read_text() for agent in agents]
        counting_agent, shadow_agent = agents
        logged = len(counting_agent.log.read_text())
        secured.forbid((ACLOperation.READ, ResourceType.TOPIC, topics.importance), user="agent")
        assert counting_agent.process.wait(60) == 1
        assert shadow_agent.stop() == 0
        shown += [agent.log.read_text() for agent in agents]
    (problem,) = [line for line in counting_agent.log.read_text()[logged:].splitlines() if " ERROR " in line]
    assert problem.endswith(f"this user lacks READ on topic {topics.importance}; have it allowed (docs/security.md)")
    training = ("--limit", 1500, "--max-bad", 1, "--threads", 1, "--json", tmp_path / "train.json")
    done += [
        run_hotstream("-v", "train", "--capacity", 100, *training, *connection["train"]),
        run_hotstream("-v", "watch", "--until-end", "--values", "--json", "-", *connection["subscribe"]),
        run_hotstream("-v", "values", log, "--schema", "criteo-kaggle", *connection["values"]),
        run_hotstream("-v", "compare", "s", "--json", "-", *connection["compare"]),
    ]
    for command in done:
        assert command.returncode == 0, command.stderr
        shown += [command.stdout, command.stderr]
    needed["values"] -= {(ACLOperation.WRITE, ResourceType.TOPIC, topics.values)}  # Criteo's keys are their values
    for name, rights in needed.items():
        assert rights_in(secured, name, topic_prefix) == rights, name
    shown += [(tmp_path / f"{name}.json").read_text() for name in ("replay", "train")]
    assert sum("DEBUG" in text for text in shown) >= 2
    assert not [text for text in shown if SECRET in text]
