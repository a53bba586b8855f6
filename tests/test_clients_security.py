"""A Kafka that demands TLS, a login and rights: right ones work, wrong ones end at once in one line that names them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Authority, Identity
from conftest import require_java
from kafka.admin import ACLOperation, ResourceType
from processes import run_hotstream, running, write_criteo_log
from secured_kafka import SecuredKafka, run_secured_kafka

from streams.clients.admin import create_topics, describe_topics, require_partitions
from streams.clients.config import KafkaConfig
from streams.clients.rights import ROLES, require_rights
from streams.errors import BrokerError
from streams.topics import Topics

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    require_java()
    with run_secured_kafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


def with_certificate(kafka: SecuredKafka, identity: Identity | None) -> dict[str, str]:
    properties = {"security.protocol": "SSL", "ssl.truststore.certificates": kafka.authority.pem}
    if identity is not None:
        properties |= {"ssl.keystore.key": identity.key_pem(), "ssl.keystore.certificate.chain": identity.pem}
    return properties


def options_of(kafka: SecuredKafka, prefix: str, folder: Path, user: str) -> list[str]:
    """The options with which a command connects as a user."""
    file = folder / f"{user}.properties"
    escaped = {name: value.replace("\n", "\\n") for name, value in kafka.login(user).items()}
    file.write_text("".join(f"{name}={value}\n" for name, value in escaped.items()))
    return ["--prefix", prefix, "--bootstrap-servers", kafka.sasl_servers, "--config", str(file)]


def test_a_right_password_and_a_right_certificate_are_accepted(secured):
    for servers, properties in (
        (secured.sasl_servers, secured.login()),
        (secured.ssl_servers, with_certificate(secured, secured.authority.issue("client"))),
    ):
        KafkaConfig(bootstrap_servers=servers, properties=properties).open_admin().close()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"secret": "wr0ng"}, "the broker refused the login; check user name and password"),
        ({"sasl_mechanism": "SCRAM-SHA-256", "sasl_jaas_config": 'M required username="a" password="wr0ng";'},
         "the broker does not offer sasl.mechanism=SCRAM-SHA-256"),
        ({"ssl_truststore_certificates": Authority("stranger").pem}, "the broker's certificate is not trusted"),
    ],
)  # fmt: skip
def test_a_wrong_login_is_refused_at_once_and_named(secured, changed, why):
    config = KafkaConfig(bootstrap_servers=secured.sasl_servers, properties=secured.login(**changed))
    for opened in (config.open_admin, config.open_consumer, config.open_producer):
        with pytest.raises(BrokerError) as caught:
            opened()
        assert why in str(caught.value)
        assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize("identity", [None, Authority("stranger").issue("client")])
def test_a_missing_or_foreign_certificate_is_refused_at_once_and_named(secured, identity):
    config = KafkaConfig(bootstrap_servers=secured.ssl_servers, properties=with_certificate(secured, identity))
    with pytest.raises(BrokerError, match=r"ended the connection; .*certificate in ssl\.keystore\.location"):
        config.open_admin()


def test_tls_to_a_listener_without_it_is_named(secured):
    config = KafkaConfig(bootstrap_servers=secured.open_servers, properties=secured.login())
    with pytest.raises(BrokerError, match=r"check the port, (and )?security\.protocol"):
        config.open_admin()


def test_each_right_that_lacks_is_named_and_no_other(secured, topic_prefix):
    admin = KafkaConfig(bootstrap_servers=secured.open_servers, prefix=topic_prefix)
    create_topics(admin, Topics(topic_prefix).specs())
    config = KafkaConfig(bootstrap_servers=secured.sasl_servers, prefix=topic_prefix, properties=secured.login())
    with pytest.raises(BrokerError, match=rf"lacks READ on topic {topic_prefix}\.assignments; "):
        require_rights(config, ["subscribe"])
    secured.allow((ACLOperation.READ, ResourceType.TOPIC, f"{topic_prefix}.assignments"))
    require_rights(config, ["subscribe"])
    with pytest.raises(BrokerError) as caught:
        require_rights(config, ["agent"], group=f"{topic_prefix}-group")
    named = set(str(caught.value).split(" lacks ")[1].split(";")[0].split(", "))
    needed = {f"{right} on topic {topic_prefix}.{name}" for name, rights in ROLES["agent"].items() for right in rights}
    assert named == needed - {f"READ on topic {topic_prefix}.assignments"} | {f"READ on group {topic_prefix}-group"}


def test_topics_that_may_not_be_created_or_seen_are_named_with_the_right_that_lacks(secured, topic_prefix):
    config = KafkaConfig(bootstrap_servers=secured.sasl_servers, prefix=topic_prefix, properties=secured.login())
    specs = Topics(topic_prefix).specs()
    with pytest.raises(BrokerError, match=rf"lacks CREATE on the cluster, .*{topic_prefix}\.clicks, ") as caught:
        create_topics(config, specs)
    assert "\n" not in str(caught.value)
    create_topics(KafkaConfig(bootstrap_servers=secured.open_servers, prefix=topic_prefix), specs)
    with pytest.raises(BrokerError, match=rf"lacks DESCRIBE on topic {topic_prefix}\.clicks"):
        require_partitions(config, f"{topic_prefix}.clicks")
    with pytest.raises(BrokerError, match=rf"lacks .*DESCRIBE on topic {topic_prefix}\.clicks, "):
        describe_topics(config, specs)
    secured.allow(*((ACLOperation.DESCRIBE, ResourceType.TOPIC, spec.name) for spec in specs))
    assert require_partitions(config, f"{topic_prefix}.clicks") == 1
    secured.allow(*((ACLOperation.DESCRIBE_CONFIGS, ResourceType.TOPIC, spec.name) for spec in specs))
    assert not any(state.problems for state in describe_topics(config, specs))


def test_with_all_rights_of_a_role_the_check_passes(secured, topic_prefix):
    admin = KafkaConfig(bootstrap_servers=secured.open_servers, prefix=topic_prefix)
    create_topics(admin, Topics(topic_prefix).specs())
    config = KafkaConfig(bootstrap_servers=secured.sasl_servers, prefix=topic_prefix, properties=secured.login())
    for role in ("agent", "frequency"):
        secured.allow(
            *((ACLOperation[operation], ResourceType.TOPIC, f"{topic_prefix}.{topic}")
              for topic, operations in ROLES[role].items() for operation in operations)
        )  # fmt: skip
    secured.allow((ACLOperation.READ, ResourceType.GROUP, topic_prefix))
    require_rights(config, ["agent", "frequency"], group=topic_prefix)


def test_a_command_without_a_right_ends_with_one_line(secured, topic_prefix, tmp_path: Path):
    create_topics(
        KafkaConfig(bootstrap_servers=secured.open_servers, prefix=topic_prefix), Topics(topic_prefix).specs()
    )
    options = options_of(secured, topic_prefix, tmp_path, "alice")
    for command in (["watch", "--until-end"], ["agent", "--capacity", "10"], ["train", "--capacity", "10"]):
        done = subprocess.run(
            [sys.executable, "-m", "trainer", *command, *options],
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1, done.stderr
        assert " lacks " in done.stderr
        assert f"READ on topic {topic_prefix}." in done.stderr


def test_a_replay_without_the_right_to_its_transactional_id_names_it(secured, topic_prefix, tmp_path: Path):
    topics = Topics(topic_prefix)
    create_topics(KafkaConfig(bootstrap_servers=secured.open_servers, prefix=topic_prefix), topics.specs())
    secured.allow(
        *{(ACLOperation[right], ResourceType.TOPIC, f"{topic_prefix}.{topic}")
          for topic, rights in ROLES["replay"].items() for right in rights}
    )  # fmt: skip
    log = write_criteo_log(tmp_path / "clicks.tsv", 5)
    done = run_hotstream("replay", log, *options_of(secured, topic_prefix, tmp_path, "alice"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert f"lacks WRITE on transactional id {topics.replay_id('')}" in done.stderr


def test_each_role_runs_with_exactly_its_rights(secured, topic_prefix, tmp_path: Path):
    topics = Topics(topic_prefix)
    create_topics(KafkaConfig(bootstrap_servers=secured.open_servers, prefix=topic_prefix), topics.specs())
    for user, roles in {"replay": ["replay"], "agent": ["agent", "frequency"], "train": ["train"],
                        "subscribe": ["subscribe"]}.items():  # fmt: skip
        secured.allow(
            *{(ACLOperation[right], ResourceType.TOPIC, f"{topic_prefix}.{topic}")
              for role in roles for topic, rights in ROLES[role].items() for right in rights},
            user=user,
        )  # fmt: skip
    secured.allow((ACLOperation.READ, ResourceType.GROUP, topic_prefix), user="agent")
    secured.allow_transactions(topics.replay_id(""), user="replay")
    log = write_criteo_log(tmp_path / "clicks.tsv", 500)
    options = {user: options_of(secured, topic_prefix, tmp_path, user) for user in ROLES}
    agent_options = ["--capacity", 100, "--signal", "frequency", "--group", topic_prefix, *options["agent"]]
    with running(tmp_path / "agent.log", "agent", *agent_options) as agent:
        done = [
            run_hotstream("replay", log, "--batch-rows", 25, *options["replay"]),
            run_hotstream("train", "--capacity", 100, "--limit", 500, "--threads", 1, *options["train"]),
            run_hotstream("watch", "--limit", 20, *options["subscribe"]),
        ]
        agent.must_run()
    for command in done:
        assert command.returncode == 0, command.stderr
        assert "s3cret" not in command.stdout + command.stderr
    assert done[2].stdout.count("\n") == 20
    assert "s3cret" not in (tmp_path / "agent.log").read_text()
