"""An Apache Kafka that demands TLS and a login, and allows each user only what its ACLs say."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from certificates import Authority, write
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    UserScramCredentialUpsertion,
)

from streams.broker.apache import apache_command
from streams.broker.process import BrokerProcess, free_port
from streams.clients.config import KafkaConfig
from streams.clients.rights import ROLES
from streams.topics import Topics

__all__ = ["SECRET", "Right", "SecuredKafka", "role_rights", "run_secured_kafka"]

Right = tuple[ACLOperation, ResourceType, str]

SECRET = "s3cret"
_USERS = ("alice", "replay", "agent", "shadow", "train", "subscribe", "values", "compare")
_LOGIN_MODULE = "org.apache.kafka.common.security.{}LoginModule"
_PLAIN, _SCRAM = _LOGIN_MODULE.format("plain.Plain"), _LOGIN_MODULE.format("scram.Scram")
_PROPERTIES = """
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,OLD:SASL_SSL,SSL:SSL
ssl.keystore.type=PEM
ssl.keystore.location=broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=authority.pem
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.old.sasl.enabled.mechanisms=PLAIN
listener.name.old.plain.sasl.jaas.config={plain} required {users};
listener.name.sasl_ssl.plain.sasl.jaas.config={plain} required {users};
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={scram} required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={scram} required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""
# Every right that is used, and every login that is refused, is a line of the broker's log.
_LOGGING = """
rootLogger.level=WARN
rootLogger.appenderRef.stdout.ref=stdout
appender.stdout.type=Console
appender.stdout.name=stdout
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=%m%n
logger.rights.name=kafka.authorizer.logger
logger.rights.level=DEBUG
logger.logins.name=org.apache.kafka.common.network.Selector
logger.logins.level=INFO
"""
_USED = re.compile(
    r"Principal = User:(\S+) is Allowed operation = (\w+) .* on resource = (\w+):\w+:(\S+) for request = (\w+)"
)
_DEADLINE_S = 20.0


def role_rights(prefix: str, *roles: str) -> set[Right]:
    """The rights of roles on the topics under a prefix."""
    return {
        (ACLOperation[operation], ResourceType.TOPIC, Topics(prefix).named(topic))
        for role in roles
        for topic, operations in ROLES[role].items()
        for operation in operations
    }


class SecuredKafka:
    """A running broker.

    Attributes:
        open_servers: its listener without any security, whose clients may do everything.
        sasl_servers: its SASL_SSL listener, with all mechanisms.
        plain_servers: the same with the mechanism PLAIN only.
        ssl_servers: its SSL listener, which demands a certificate of the client.
        authority: signed the broker's certificate, and must sign a client's.
    """

    def __init__(self, authority: Authority, log: Path, ports: Sequence[int]) -> None:
        self.authority = authority
        self._log = log
        self.open_servers, self.sasl_servers, self.plain_servers, self.ssl_servers = (
            f"127.0.0.1:{port}" for port in ports
        )
        self._admin = KafkaAdminClient(bootstrap_servers=self.open_servers)

    def close(self) -> None:
        """Disconnects."""
        self._admin.close()

    def create_users(self) -> None:
        """Gives all users of PLAIN the same password for SCRAM."""
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):  # Kafka takes a user once a request
            users = [UserScramCredentialUpsertion(user, mechanism, f"{user}-{SECRET}") for user in _USERS]
            self._admin.alter_user_scram_credentials(users)
        _wait_until(
            lambda: all(
                len(user["credential_infos"]) == 2
                for user in self._admin.describe_user_scram_credentials(list(_USERS)).values()
            ),
            "the users",
        )

    def admin(self, prefix: str) -> KafkaConfig:
        """The connection of a user who may do everything."""
        return KafkaConfig(bootstrap_servers=self.open_servers, prefix=prefix)

    def login(
        self, user: str = "alice", *, secret: str = SECRET, mechanism: str = "PLAIN", **properties: str
    ) -> dict[str, str]:
        """Properties of a user on the SASL_SSL listener."""
        module = _PLAIN if mechanism == "PLAIN" else _SCRAM
        return {
            "security.protocol": "SASL_SSL",
            "ssl.truststore.certificates": self.authority.pem,
            "sasl.mechanism": mechanism,
            "sasl.jaas.config": f'{module} required username="{user}" password="{user}-{secret}";',
        } | {name.replace("_", "."): value for name, value in properties.items()}

    def certificate(self, user: str) -> dict[str, str]:
        """Properties of any user on the SSL listener, whose name in ACLs is `CN=USER`."""
        identity = self.authority.issue(user)
        return {
            "security.protocol": "SSL",
            "ssl.truststore.certificates": self.authority.pem,
            "ssl.keystore.key": identity.key_pem(),
            "ssl.keystore.certificate.chain": identity.pem,
        }

    def allow(self, *rights: Right, user: str = "alice", is_prefix: bool = False) -> None:
        """Gives a user rights, on all names that begin with the given ones if asked; all others stay forbidden."""
        self.allow_all({user: rights}, is_prefix=is_prefix)

    def allow_all(self, rights: Mapping[str, Iterable[Right]], *, is_prefix: bool = False) -> None:
        """The same for many users at once."""
        kind = ACLResourcePatternType.PREFIXED if is_prefix else ACLResourcePatternType.LITERAL
        acls = [_acl(user, right, kind) for user, listed in rights.items() for right in listed]
        self._admin.create_acls(acls)
        self._await_acls(lambda present: present >= {str(acl) for acl in acls})

    def forbid(self, *rights: Right, user: str) -> None:
        """Takes rights away."""
        acls = [_acl(user, right, ACLResourcePatternType.LITERAL) for right in rights]
        self._admin.delete_acls(acls)
        self._await_acls(lambda present: not present & {str(acl) for acl in acls})

    def _await_acls(self, is_done: Callable[[set[str]], bool]) -> None:
        anything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
        wanted = ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, anything)
        _wait_until(lambda: is_done({str(acl) for acl in self._admin.describe_acls(wanted)[0]}), "the ACLs")

    def used_rights(self, user: str) -> set[tuple[str, str, str]]:
        """Operation, kind and name of all that a user was allowed and has done so far."""
        found = _USED.findall(self._log.read_text(errors="replace"))
        return {
            (operation, kind, name)
            for who, operation, kind, name, request in found
            if who == user and request != "LeaveGroup"
        }

    def num_refused_logins(self) -> int:
        """The number of logins refused so far."""
        return self._log.read_text(errors="replace").count("Failed authentication")


def _wait_until(is_done: Callable[[], bool], what: str) -> None:
    """Waits until the broker applies what the controller has accepted."""
    deadline_s = time.monotonic() + _DEADLINE_S
    while not is_done():
        assert time.monotonic() < deadline_s, f"{what}: not applied within {_DEADLINE_S:.0f} s"
        time.sleep(0.02)


def _acl(user: str, right: Right, pattern: ACLResourcePatternType) -> ACL:
    operation, kind, name = right
    return ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name, pattern))


@contextmanager
def run_secured_kafka(folder: Path) -> Iterator[SecuredKafka]:
    """Starts the broker; stops it at the end."""
    authority = Authority()
    broker = authority.issue("broker")
    write(folder / "broker.pem", broker.key_pem() + broker.pem)
    write(folder / "authority.pem", authority.pem)
    write(folder / "logging.properties", _LOGGING)
    ports = [free_port() for _ in range(4)]
    command = apache_command(folder, ports[0])
    names = ("SASL_SSL", "OLD", "SSL")
    listeners = "".join(f",{name}://127.0.0.1:{port}" for name, port in zip(names, ports[1:], strict=True))
    users = " ".join(f'user_{name}="{name}-{SECRET}"' for name in _USERS)

    def prepare() -> None:
        command.prepare()
        file = folder / "server.properties"
        text = re.sub(r"^((?:advertised\.)?listeners=.*)$", rf"\1{listeners}", file.read_text(), flags=re.MULTILINE)
        file.write_text(text + _PROPERTIES.format(plain=_PLAIN, scram=_SCRAM, users=users))

    java, *arguments = command.arguments
    logging = f"-Dlog4j2.configurationFile={folder / 'logging.properties'}"
    process = BrokerProcess(replace(command, prepare=prepare, arguments=[java, logging, *arguments]))
    try:
        process.start()
        kafka = SecuredKafka(authority, process.log_path, ports)
        kafka.create_users()
        yield kafka
        kafka.close()
    finally:
        process.stop()
