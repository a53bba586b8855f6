"""A Kafka that demands TLS, a login and rights: what may not be done is named, before anything is read or written."""

from __future__ import annotations

import pytest
from certificates import Authority
from kafka.admin import ACLOperation, ResourceType
from secured_kafka import role_rights

from streams.clients.admin import create_topics, describe_topics, require_partitions
from streams.clients.config import KafkaConfig
from streams.clients.producer import RecordProducer
from streams.clients.rights import ROLES, require_rights
from streams.clients.topic_reader import TopicReader
from streams.errors import BrokerError
from streams.topics import Topics

pytestmark = pytest.mark.broker


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"secret": "wr0ng"}, "the broker refused the login; check user name and password"),
        ({"ssl_truststore_certificates": Authority("stranger").pem}, "the broker's certificate is not trusted"),
    ],
)
def test_a_wrong_login_is_refused_to_every_client(secured, changed, why):
    config = KafkaConfig(bootstrap_servers=secured.sasl_servers, properties=secured.login(**changed))
    for opened in (config.open_admin, config.open_consumer, config.open_producer):
        with pytest.raises(BrokerError) as caught:
            opened()
        assert why in str(caught.value)
        assert "wr0ng" not in str(caught.value)


def test_tls_to_a_listener_without_it_is_named(secured):
    config = KafkaConfig(bootstrap_servers=secured.open_servers, properties=secured.login())
    with pytest.raises(BrokerError, match=r"check the port, (and )?security\.protocol"):
        config.open_admin()


def test_each_right_that_lacks_is_named_and_no_other(secured, topic_prefix):
    create_topics(secured.admin(topic_prefix), Topics(topic_prefix).specs())
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
    create_topics(secured.admin(topic_prefix), specs)
    with pytest.raises(BrokerError, match=rf"lacks DESCRIBE on topic {topic_prefix}\.clicks"):
        require_partitions(config, f"{topic_prefix}.clicks")
    with pytest.raises(BrokerError, match=rf"lacks .*DESCRIBE on topic {topic_prefix}\.clicks, "):
        describe_topics(config, specs)
    secured.allow(*((ACLOperation.DESCRIBE, ResourceType.TOPIC, spec.name) for spec in specs))
    assert require_partitions(config, f"{topic_prefix}.clicks") == 1
    secured.allow(*((ACLOperation.DESCRIBE_CONFIGS, ResourceType.TOPIC, spec.name) for spec in specs))
    assert not any(state.problems for state in describe_topics(config, specs))


def test_the_right_to_a_group_is_seen_before_the_group_exists_and_taken_from_it(secured, topic_prefix):
    config = KafkaConfig(bootstrap_servers=secured.ssl_servers, properties=secured.certificate(topic_prefix))
    group = (ACLOperation.READ, ResourceType.GROUP, topic_prefix)
    with pytest.raises(BrokerError, match=f"lacks READ on group {topic_prefix};"):
        require_rights(config, group=topic_prefix)
    secured.allow((ACLOperation.DESCRIBE, *group[1:]), user=f"CN={topic_prefix}")
    with pytest.raises(BrokerError, match=f"lacks READ on group {topic_prefix};"):
        require_rights(config, group=topic_prefix)
    secured.allow(group, user=f"CN={topic_prefix}")
    require_rights(config, group=topic_prefix)
    with config.open_admin() as admin:
        assert topic_prefix not in {group["group_id"] for group in admin.list_groups()}


def test_a_right_that_is_taken_away_is_named_by_the_next_request(secured, topic_prefix):
    topics, user = Topics(topic_prefix), f"CN={topic_prefix}"
    create_topics(secured.admin(topic_prefix), topics.specs())
    config = KafkaConfig(
        bootstrap_servers=secured.ssl_servers, prefix=topic_prefix, properties=secured.certificate(topic_prefix)
    )
    rights = [(ACLOperation[right], ResourceType.TOPIC, topics.clicks) for right in ("READ", "WRITE")]
    secured.allow(*rights, user=user)

    def write() -> None:
        with RecordProducer(config) as producer:
            producer.send(topics.clicks, 0, b"1", [])
            producer.wait()
            secured.forbid(*rights, user=user)
            while True:  # the first refusal counts, not that the producer is closed then
                producer.send(topics.clicks, 0, b"2", [])

    def read_for_ever(reader: TopicReader) -> None:
        while True:
            reader.poll()

    with TopicReader(config, topics.clicks) as reader:
        with pytest.raises(BrokerError, match=rf"lacks WRITE on topic {topics.clicks};"):
            write()
        with pytest.raises(BrokerError, match=rf"lacks READ on topic {topics.clicks};"):
            read_for_ever(reader)


def test_with_all_rights_of_a_role_the_check_passes(secured, topic_prefix):
    create_topics(secured.admin(topic_prefix), Topics(topic_prefix).specs())
    config = KafkaConfig(bootstrap_servers=secured.sasl_servers, prefix=topic_prefix, properties=secured.login())
    secured.allow(*role_rights(topic_prefix, "agent", "frequency"))
    secured.allow((ACLOperation.READ, ResourceType.GROUP, topic_prefix))
    require_rights(config, ["agent", "frequency"], group=topic_prefix)
