"""An Apache Kafka that demands TLS and a login, and allows each user only what its ACLs say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from certificates import Authority, write
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)

from streams.broker.apache import apache_command
from streams.broker.process import BrokerProcess, free_port

__all__ = ["SecuredKafka", "run_secured_kafka"]

_USERS = ("alice", "replay", "agent", "train", "subscribe")
_SECRET = "s3cret"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_PROPERTIES = """
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
ssl.keystore.type=PEM
ssl.keystore.location=broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=authority.pem
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config={plain} required {users};
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""


class SecuredKafka:
    """A running broker.

    Attributes:
        open_servers: its listener without any security, whose clients may do everything.
        sasl_servers: its SASL_SSL listener.
        ssl_servers: its SSL listener, which demands a certificate of the client.
        authority: signed the broker's certificate, and must sign a client's.
    """

    def __init__(self, authority: Authority, open_servers: str, sasl_port: int, ssl_port: int) -> None:
        self.authority = authority
        self.open_servers = open_servers
        self.sasl_servers, self.ssl_servers = f"127.0.0.1:{sasl_port}", f"127.0.0.1:{ssl_port}"

    def login(self, user: str = "alice", *, secret: str = _SECRET, **properties: str) -> dict[str, str]:
        """Properties of a user on the SASL_SSL listener."""
        return {
            "security.protocol": "SASL_SSL",
            "ssl.truststore.certificates": self.authority.pem,
            "sasl.mechanism": "PLAIN",
            "sasl.jaas.config": f'{_PLAIN} required username="{user}" password="{user}-{secret}";',
        } | {name.replace("_", "."): value for name, value in properties.items()}

    def allow_transactions(self, prefix: str, *, user: str) -> None:
        """Gives a user the transactional ids with a prefix."""
        admin = KafkaAdminClient(bootstrap_servers=self.open_servers)
        pattern = ResourcePattern(ResourceType.TRANSACTIONAL_ID, prefix, ACLResourcePatternType.PREFIXED)
        admin.create_acls([ACL(f"User:{user}", "*", ACLOperation.WRITE, ACLPermissionType.ALLOW, pattern)])
        admin.close()

    def allow(self, *rights: tuple[ACLOperation, ResourceType, str], user: str = "alice") -> None:
        """Gives a user rights; everything else stays forbidden."""
        admin = KafkaAdminClient(bootstrap_servers=self.open_servers)
        admin.create_acls([
            ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
            for operation, kind, name in rights
        ])  # fmt: skip
        admin.close()


@contextmanager
def run_secured_kafka(folder: Path) -> Iterator[SecuredKafka]:
    """Starts the broker; stops it at the end."""
    authority = Authority()
    broker = authority.issue("broker")
    write(folder / "broker.pem", broker.key_pem() + broker.pem)
    write(folder / "authority.pem", authority.pem)
    sasl_port, ssl_port = free_port(), free_port()
    command = apache_command(folder, free_port())
    listeners = f",SASL_SSL://127.0.0.1:{sasl_port},SSL://127.0.0.1:{ssl_port}"

    def prepare() -> None:
        command.prepare()
        file = folder / "server.properties"
        text = re.sub(r"^((?:advertised\.)?listeners=.*)$", rf"\1{listeners}", file.read_text(), flags=re.MULTILINE)
        file.write_text(
            text
            + _PROPERTIES.format(plain=_PLAIN, users=" ".join(f'user_{name}="{name}-{_SECRET}"' for name in _USERS))
        )

    process = BrokerProcess(replace(command, prepare=prepare))
    try:
        process.start()
        yield SecuredKafka(authority, process.bootstrap_servers, sasl_port, ssl_port)
    finally:
        process.stop()
