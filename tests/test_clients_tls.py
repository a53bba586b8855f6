"""TLS from Kafka's properties: what a client trusts, how it identifies itself, and which stores are refused."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from certificates import Authority, Identity, write

from streams.clients.config import KafkaConfig
from streams.errors import ConfigError

AUTHORITY, STRANGER = Authority("authority"), Authority("stranger")
BROKER, CLIENT, OTHER = AUTHORITY.issue("broker"), AUTHORITY.issue("client"), STRANGER.issue("client")
PASSWORD = "st0re"


def context_of(**properties: str) -> ssl.SSLContext:
    dotted = {name.replace("_", "."): value for name, value in properties.items()}
    config = KafkaConfig(bootstrap_servers="b:1", properties={"security.protocol": "SSL", **dotted})
    return config.client_arguments()["ssl_context"]


def handshake(
    client: ssl.SSLContext, folder: Path, *, broker: Identity = BROKER, name: str = "127.0.0.1"
) -> str | None:
    """Connects to a broker that asks for a certificate of our authority; returns the client's name that it sees."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(write(folder / "broker.pem", broker.pem + broker.key_pem()))
    server.load_verify_locations(cadata=AUTHORITY.pem)
    server.verify_mode = ssl.CERT_OPTIONAL
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client.wrap_bio(down, up, server_hostname=name)
    broker_end = server.wrap_bio(up, down, server_side=True)
    for end in (client_end, broker_end, client_end, broker_end, client_end):  # enough for TLS 1.2 and 1.3
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert client_end.version()
    assert broker_end.version()
    certificate = broker_end.getpeercert()
    return dict(pair for (pair,) in certificate["subject"])["commonName"] if certificate else None


def stores(folder: Path, kind: str) -> dict[str, str]:
    """Properties with the client's trust and identity, in one of the ways that Kafka has for them."""
    if kind == "pkcs12":
        return {
            "ssl_truststore_location": write(folder / "trust.p12", AUTHORITY.pkcs12(PASSWORD)),
            "ssl_truststore_password": PASSWORD,
            "ssl_truststore_type": "PKCS12",
            "ssl_keystore_location": write(folder / "key.p12", CLIENT.pkcs12(PASSWORD)),
            "ssl_keystore_password": PASSWORD,
            "ssl_key_password": PASSWORD,
        }
    if kind == "pem files":
        return {
            "ssl_truststore_location": write(folder / "trust.pem", AUTHORITY.pem),
            "ssl_truststore_type": "PEM",
            "ssl_keystore_location": write(folder / "key.pem", CLIENT.key_pem(PASSWORD) + CLIENT.pem),
            "ssl_keystore_type": "PEM",
            "ssl_key_password": PASSWORD,
        }
    if kind == "pem in the properties":
        return {
            "ssl_truststore_certificates": AUTHORITY.pem.replace("\n", " "),
            "ssl_keystore_key": CLIENT.key_pem().replace("\n", " "),
            "ssl_keystore_certificate_chain": CLIENT.pem.replace("\n", " "),
        }
    return {
        "ssl_ca_location": write(folder / "ca.pem", AUTHORITY.pem),
        "ssl_certificate_location": write(folder / "client.pem", CLIENT.pem),
        "ssl_key_location": write(folder / "client.key", CLIENT.key_pem(PASSWORD)),
        "ssl_key_password": PASSWORD,
    }


@pytest.mark.parametrize("kind", ["pkcs12", "pem files", "pem in the properties", "librdkafka"])
def test_a_client_trusts_its_store_and_identifies_itself_with_its_key(tmp_path, kind):
    assert handshake(context_of(**stores(tmp_path, kind)), tmp_path) == "client"


def test_a_client_without_a_key_stays_anonymous(tmp_path):
    assert handshake(context_of(ssl_truststore_certificates=AUTHORITY.pem), tmp_path) is None


@pytest.mark.parametrize("kind", ["pkcs12", "pem files", "pem in the properties", "librdkafka"])
def test_a_broker_of_another_authority_is_refused(tmp_path, kind):
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        handshake(context_of(**stores(tmp_path, kind)), tmp_path, broker=OTHER)


def test_a_broker_of_another_name_is_refused_unless_the_check_is_off(tmp_path):
    trust = {"ssl_truststore_certificates": AUTHORITY.pem}
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        handshake(context_of(**trust), tmp_path, name="127.0.0.2")
    handshake(context_of(**trust, ssl_endpoint_identification_algorithm=""), tmp_path, name="127.0.0.2")


def test_old_versions_of_tls_are_never_spoken_and_a_list_limits_the_new_ones():
    assert context_of().minimum_version == ssl.TLSVersion.TLSv1_2
    context = context_of(ssl_enabled_protocols="TLSv1.3")
    assert (context.minimum_version, context.maximum_version) == (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)


def test_no_key_can_be_read_from_a_file_that_the_client_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    context_of(**stores(tmp_path, "pem in the properties"))
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        (
            {"ssl_truststore_location": "missing"},
            r"'ssl\.truststore\.location': the file cannot be read \(No such file",
        ),
        ({"ssl_truststore_location": "jks"}, "got a JKS store, expected PKCS12 or PEM; convert it with `keytool "),
        ({"ssl_truststore_location": "p12"}, r"cannot be opened; .*password in 'ssl\.truststore\.password'"),
        ({"ssl_truststore_location": "p12", "ssl_truststore_password": "wr0ng"}, "the store cannot be opened"),
        ({"ssl_truststore_location": "noise"}, "the store cannot be opened; expected PKCS12 or PEM"),
        ({"ssl_truststore_location": "key"}, "got no certificate"),
        ({"ssl_truststore_location": "bad"}, r"'ssl\.truststore\.location': its certificates cannot be read"),
        ({"ssl_truststore_password": "wr0ng"}, r"no effect without 'ssl\.truststore\.location'"),
        ({"ssl_truststore_location": "ca", "ssl_ca_location": "ca"}, "expected one of the two"),
        ({"ssl_truststore_location": "ca", "ssl_truststore_type": "wr0ng"}, "expected PKCS12, PEM, JKS"),
        ({"ssl_keystore_location": "ca"}, "got no private key"),
        ({"ssl_keystore_location": "key"}, "got no certificate"),
        ({"ssl_keystore_location": "locked"}, r"the key cannot be read; .*'ssl\.key\.password'"),
        ({"ssl_keystore_location": "locked", "ssl_key_password": "wr0ng"}, "the key cannot be read"),
        ({"ssl_keystore_location": "mixed"}, "the key cannot be used"),
        ({"ssl_keystore_key": "wr0ng"}, r"no effect without 'ssl\.keystore\.certificate\.chain'"),
        ({"ssl_key_password": "wr0ng"}, "no effect without a key"),
        ({"ssl_enabled_protocols": "TLSv1"}, r"expected a list of TLSv1\.2, TLSv1\.3"),
        ({"ssl_endpoint_identification_algorithm": "wr0ng"}, "expected https"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_by_name_without_its_secrets(tmp_path, properties, why):
    files = {
        "jks": b"\xfe\xed\xfe\xed\x00\x00\x00\x02",
        "p12": AUTHORITY.pkcs12(PASSWORD),
        "noise": b"wr0ng",
        "ca": AUTHORITY.pem,
        "key": CLIENT.key_pem(),
        "bad": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "locked": CLIENT.key_pem(PASSWORD) + CLIENT.pem,
        "mixed": CLIENT.key_pem() + OTHER.pem,
    }
    for name, content in files.items():
        write(tmp_path / name, content)
    found = {name: str(tmp_path / value) if "location" in name else value for name, value in properties.items()}
    with pytest.raises(ConfigError, match=why) as caught:
        context_of(**found)
    assert "wr0ng" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
