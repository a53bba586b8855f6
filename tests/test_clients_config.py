"""How a command reaches Kafka, what it prints of that, and what it reports at its end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from streams.cli.options import kafka_options, open_kafka
from streams.cli.reports import Report, describe_machine, json_option
from streams.clients.config import KafkaConfig
from streams.clients.properties import load_properties, redact
from streams.errors import ConfigError
from streams.telemetry.latency import LatencyHistogram

SASL = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256"}

# ---- properties ----------------------------------------------------------------------------------------------------


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_properties_file_reads_as_kafka_reads_it(tmp_path):
    text = "# comment\n! another\n\n  sasl.username = me \nsasl.password=a=b # c\nssl.ca.location=\n"
    assert load_properties(write(tmp_path / "client.properties", text)) == {
        "sasl.username": "me",
        "sasl.password": "a=b # c",
        "ssl.ca.location": "",
    }


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a=1\nnonsense\n", "line 2: got no name and value, expected name=value"),
        ("a=1\n=nonsense\n", "line 2: got no name and value, expected name=value"),
        ("# c\na=b\\\nc\nd=\\u00zz\n", r"line 4: got \\u without four hexadecimal digits"),
        (b"a=\xff\xfe", "not UTF-8"),
    ],
)
def test_a_properties_file_that_cannot_be_read_is_refused_with_the_place(tmp_path, content, why):
    path = write(tmp_path / "client.properties", content)
    with pytest.raises(ConfigError, match=why) as caught:
        load_properties(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["missing.properties", "."])
def test_a_properties_file_that_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_properties(tmp_path / name)


def test_secrets_are_redacted_wherever_they_stand():
    secret = {
        "sasl.password": "s3cret",
        "ssl.key.password": "s3cret",
        "sasl.jaas.config": 'Module required username="u" password="s3cret";',
        "sasl.oauthbearer.token.endpoint.url": "s3cret",
        "some.SECRET": "s3cret",
    }
    plain = {"sasl.username": "me", "security.protocol": "SASL_SSL"}
    shown = redact({**secret, **plain})
    assert {name: shown[name] for name in secret} == dict.fromkeys(secret, "***")
    assert {name: shown[name] for name in plain} == plain


def test_a_configuration_never_prints_its_secrets():
    config = KafkaConfig(bootstrap_servers="b:1", properties={**SASL, "sasl.password": "s3cret", "sasl.username": "me"})
    for printed in (repr(config), str(config), json.dumps(config.describe())):
        assert "s3cret" not in printed


def test_a_description_shows_the_servers_in_force_not_those_of_the_file():
    config = KafkaConfig(bootstrap_servers="flag:2", properties={"bootstrap.servers": "file:1"})
    assert config.describe() == {"bootstrap.servers": "flag:2", "prefix": "hotstream"}


def test_properties_become_the_clients_arguments():
    properties = {**SASL, "sasl.username": "me", "sasl.password": "p", "bootstrap.servers": "b:1", "client.id": "c"}
    assert KafkaConfig(bootstrap_servers="b:1", properties=properties).client_arguments() == {
        "client_id": "c",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "me",
        "sasl_plain_password": "p",
    }


@pytest.mark.parametrize(
    ("written", "username", "password"),
    [
        ('org.apache.kafka.common.security.scram.ScramLoginModule required username="u" password="p";', "u", "p"),
        ('ScramLoginModule required  password = "p w"   username = "u@x" ;', "u@x", "p w"),
        (r'M required username="u" password="a\"b\\c";', "u", 'a"b\\c'),
        ('M required username="u" password="";', "u", ""),
        ('M required username="u" password="username=x";', "u", "username=x"),
        ("M required username=u password='p q';", "u", "p q"),
    ],
)
def test_user_and_password_are_read_from_a_jaas_line(written, username, password):
    config = KafkaConfig(bootstrap_servers="b:1", properties={**SASL, "sasl.jaas.config": written})
    arguments = config.client_arguments()
    assert (arguments["sasl_plain_username"], arguments["sasl_plain_password"]) == (username, password)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "M required;",
        'M required username="u";',
        'PlainLoginModule required username="u" password="p";',
        'ScramLoginModule required username="u" password="p" tokenauth="true";',
    ],
)
def test_a_jaas_line_without_user_and_password_is_refused_and_not_shown(written):
    with pytest.raises(ConfigError, match=r"sasl\.jaas\.config") as caught:
        KafkaConfig(bootstrap_servers="b:1", properties={**SASL, "sasl.jaas.config": written})
    assert "required " not in str(caught.value)


def test_a_java_file_with_continued_lines_and_escapes_reads_as_java_reads_it(tmp_path):
    text = r"""
security.protocol: SASL_PLAINTEXT
sasl.mechanism SCRAM-SHA-512
client.id = hot\u0073tream
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \
    username="al\:ice" \
    password="a\\\\b";
! the end"""
    config = KafkaConfig(
        bootstrap_servers="b:1", properties=load_properties(write(tmp_path / "client.properties", text))
    )
    assert config.client_arguments() == {
        "client_id": "hotstream",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "al:ice",
        "sasl_plain_password": "a\\b",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\\ b=1", {"a b": "1"}),
        ("a\\=b = c=d", {"a=b": "c=d"}),
        ("a=b\\\n   \t#c\nd:e", {"a": "b#c", "d": "e"}),
        ("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}),
        ("a\r\n", None),
        ("a = \r\nb\t1\r\n", {"a": "", "b": "1"}),
        ("a=1\na=2\\", {"a": "2"}),
        ("a=\\\n\nb=1", {"a": "", "b": "1"}),
        ("\ufeffa=1", {"a": "1"}),
        ("a=\\t1\\q\\u00E4", {"a": "1q\u00e4"}),
        ("a=x\x0by", {"a": "x\x0by"}),
    ],
)
def test_properties_follow_the_syntax_of_java(tmp_path, text, expected):
    path = write(tmp_path / "client.properties", text)
    if expected is None:
        with pytest.raises(ConfigError):
            load_properties(path)
    else:
        assert load_properties(path) == expected


PASSWORD = {"sasl.username": "u", "sasl.password": "s3cret"}


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        (
            {"sasl.mechanism": "s3cret"},
            r"'sasl\.mechanism': has no effect with security\.protocol=PLAINTEXT, the default",
        ),
        (
            {**SASL, **PASSWORD, "ssl.ca.location": "s3cret"},
            r"'ssl\.ca\.location': has no effect .*expected SSL or SASL_SSL",
        ),
        ({"security.protocol": "s3cret"}, r"'security\.protocol': got another value, expected PLAINTEXT, SSL"),
        (
            {**SASL, **PASSWORD, "sasl.mechanism": "s3cret"},
            r"'sasl\.mechanism': got another value, expected PLAIN, SCRAM",
        ),
        ({"security.protocol": "SASL_SSL", **PASSWORD}, r"'sasl\.mechanism': got nothing, expected PLAIN"),
        ({**SASL, **PASSWORD, "sasl.mechanisms": "PLAIN"}, r"'sasl\.mechanisms': got it beside 'sasl\.mechanism'"),
        ({**SASL, **PASSWORD, "sasl.jaas.config": "s3cret"}, r"'sasl\.jaas\.config': got it beside"),
        ({**SASL, "sasl.password": "s3cret"}, r"'sasl\.username': got nothing"),
        ({**SASL, "sasl.username": "s3cret"}, r"'sasl\.password': got nothing"),
        ({"isolation.level": "s3cret"}, r"'isolation\.level': got another value, expected read_committed or"),
        ({"S3cret": "x"}, "got a name that is none of Kafka's, expected one of "),
    ],
)
def test_properties_without_effect_or_in_contradiction_are_refused_and_not_shown(properties, why):
    with pytest.raises(ConfigError, match=why) as caught:
        KafkaConfig(bootstrap_servers="b:1", properties=properties)
    assert "s3cret" not in str(caught.value).lower()


def test_a_line_with_a_password_is_never_shown(tmp_path):
    path = write(tmp_path / "client.properties", "sasl.username=me\n s3cret\n")
    with pytest.raises(ConfigError) as caught:
        load_properties(path)
    assert "s3cret" not in str(caught.value)


def test_consumers_skip_aborted_transactions_unless_told_otherwise():
    assert KafkaConfig(bootstrap_servers="b:1").consumer_arguments() == {"isolation_level": "read_committed"}
    told = KafkaConfig(bootstrap_servers="b:1", properties={"isolation.level": "read_uncommitted"})
    assert told.consumer_arguments() == {"isolation_level": "read_uncommitted"}
    assert told.client_arguments() == {}


@pytest.mark.parametrize("servers", ["", "localhost", "localhost:", ":9092x", "a:1,", "a:1,,b:2", "a b:1", "a:123456"])
def test_bootstrap_servers_that_cannot_be_meant_are_refused(servers):
    with pytest.raises(ConfigError, match="bootstrap servers"):
        KafkaConfig(bootstrap_servers=servers)


def test_servers_come_one_by_one():
    assert KafkaConfig(bootstrap_servers="a:1, b.example:65535,[::1]:9092").servers == [
        "a:1",
        "b.example:65535",
        "[::1]:9092",
    ]


@pytest.mark.parametrize("prefix", ["", ".", ".a", "a_b", "a b", "a/b", "\u00e4", "x" * 101])
def test_a_topic_prefix_that_kafka_or_its_metrics_would_trip_over_is_refused(prefix):
    with pytest.raises(ConfigError, match="--prefix"):
        KafkaConfig(bootstrap_servers="b:1", prefix=prefix)


def test_an_unknown_property_is_refused_and_named_beside_the_known_ones():
    with pytest.raises(ConfigError, match=r"got 'sasl\.passwort', expected one of .*sasl\.password"):
        KafkaConfig(bootstrap_servers="b:1", properties={"sasl.passwort": "p"})


def test_a_configuration_is_frozen_and_takes_names_only():
    config = KafkaConfig(bootstrap_servers="b:1")
    with pytest.raises(AttributeError):
        config.prefix = "x"
    with pytest.raises(TypeError):
        KafkaConfig("b:1")


# ---- flag > environment > file > default ---------------------------------------------------------------------------


@click.command
@kafka_options
def show(**kafka) -> None:
    """Prints where a command would go."""
    with open_kafka(**kafka) as config:
        click.echo(json.dumps([config.bootstrap_servers, config.prefix]))


@pytest.mark.parametrize(
    ("flag", "environment", "file", "expected"),
    [
        (True, True, True, "flag:1"),
        (False, True, True, "environment:1"),
        (False, False, True, "file:1"),
        (False, False, False, "localhost:9092"),
        (True, False, True, "flag:1"),
        (False, True, False, "environment:1"),
    ],
)
def test_the_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path, flag, environment, file, expected):
    arguments = ["--bootstrap-servers", "flag:1"] if flag else []
    if file:
        arguments += ["--config", str(write(tmp_path / "client.properties", "bootstrap.servers=file:1\n"))]
    variables = {"KAFKA_BOOTSTRAP_SERVERS": "environment:1" if environment else None, "HOTSTREAM_PREFIX": None}
    result = CliRunner().invoke(show, arguments, env=variables, catch_exceptions=False)
    assert json.loads(result.output) == [expected, "hotstream"]


@pytest.mark.parametrize(
    ("arguments", "variable", "expected"),
    [([], None, "hotstream"), ([], "env", "env"), (["--prefix", "flag"], "env", "flag")],
)
def test_the_prefix_has_the_same_precedence(arguments, variable, expected):
    variables = {"HOTSTREAM_PREFIX": variable, "KAFKA_BOOTSTRAP_SERVERS": None}
    result = CliRunner().invoke(show, arguments, env=variables, catch_exceptions=False)
    assert json.loads(result.output)[1] == expected


def test_a_properties_file_that_is_not_there_is_a_configuration_error(tmp_path):
    result = CliRunner().invoke(show, ["--config", str(tmp_path / "none")])
    assert isinstance(result.exception, ConfigError)


# ---- reports -------------------------------------------------------------------------------------------------------


def strict_json(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_report_has_the_fixed_keys_and_no_nan(tmp_path):
    path = tmp_path / "report.json"
    content = {
        "auc": math.nan,
        "latency_ms": {"p50": math.inf, "p99": [1.5, -math.inf, np.float64("nan")]},
        "cells": ({"auc": 0.5}, {"auc": math.nan}),
        "rows": 7,
    }
    report = Report("bench sketch").finish(str(path), ok=False, **content)
    read = strict_json(path.read_text())
    assert list(read)[:5] == ["command", "version", "machine", "ok", "seconds"]
    assert (read["command"], read["ok"], read["rows"], read["auc"]) == ("bench sketch", False, 7, None)
    assert read["latency_ms"] == {"p50": None, "p99": [1.5, None, None]}
    assert read["cells"] == [{"auc": 0.5}, {"auc": None}]
    assert read["seconds"] >= 0
    assert report["rows"] == 7


def test_a_report_goes_to_standard_output_or_nowhere(capsys):
    Report("replay").finish("-", ok=True, rows=1)
    assert strict_json(capsys.readouterr().out)["rows"] == 1
    Report("replay").finish(None, ok=True, rows=1)
    assert capsys.readouterr().out == ""


def test_the_json_option_is_called_so_and_takes_a_path():
    command = json_option(click.command(lambda json_path: click.echo(repr(json_path))))
    assert CliRunner().invoke(command, ["--json", "-"]).output == "'-'\n"
    assert CliRunner().invoke(command, []).output == "None\n"


def test_the_machine_is_described_in_numbers_and_words():
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert machine["memory_bytes"] > 1 << 28
    assert all(machine[name] for name in ("cpu", "system", "python"))


# ---- latencies -----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1.0, 1e8), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_right_to_about_2_percent(latencies, share):
    histogram = LatencyHistogram()
    histogram.add(latencies)
    exact = sorted(latencies)[max(0, math.ceil(share * len(latencies) - 1e-9) - 1)]
    assert histogram.quantile(share) == pytest.approx(exact, rel=0.023, abs=0.01)
    assert histogram.count == len(latencies)


def test_latencies_below_1_ms_and_clocks_that_disagree_fall_into_the_first_bin():
    histogram = LatencyHistogram()
    histogram.add([0.0, -5.0, 0.3])
    histogram.add(0.9)
    assert histogram.count == 4
    assert histogram.summary() == {"p50": 1.02, "p99": 1.02}


def test_a_latency_beyond_the_last_bin_is_counted_in_it():
    histogram = LatencyHistogram()
    histogram.add(1e30)
    assert histogram.quantile(0.5) == pytest.approx(2.0**30, rel=0.03)


def test_of_no_latencies_there_is_no_quantile():
    assert LatencyHistogram().summary() == {"p50": None, "p99": None}
