"""The documents of the protocol: vectors, examples, JSON Schemas and AsyncAPI are those of the records as written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import protocol_vectors
import pytest
import yaml
from agent_driver import SHARDS, TOPICS, broker_with_importance, count_all
from protocol_vectors import FOLDER, PAGE, examples, refused

from streams.records import ClickBatch, ImportanceBatch, decode_clicks, decode_importance
from streams.topics import Topics

DOCS = Path(__file__).parent.parent / "docs"
SCHEMAS = json.loads((DOCS / "schemas.json").read_text(encoding="utf-8"))
ASYNCAPI = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
WRITE = "; run `python tests/protocol_vectors.py`"
# The members of an Arrow stream are the contract, not its bytes, which may change with a version of pyarrow.
ARROW = {"importance": decode_importance, "clicks": decode_clicks, "clicks-more": decode_clicks,
         "clicks-weights": decode_clicks}  # fmt: skip


def without_arrow(text: str) -> Any:
    known = json.loads(text)
    return {name: {**record, "value_hex": None} if name in ARROW else record for name, record in known.items()}


@pytest.mark.parametrize("name", ["keys.json", "records.json", "refused.json", "logs.json", "embeddings.json"])
def test_the_vectors_are_what_the_product_computes_and_writes(name: str) -> None:
    known, made = (FOLDER / name).read_text(encoding="utf-8"), protocol_vectors.files()[name]
    if name == "records.json":
        assert without_arrow(known) == without_arrow(made), f"{name} differs{WRITE}"
    else:
        assert known == made, f"{name} differs{WRITE}"


@pytest.mark.parametrize("name", ARROW)
def test_the_arrow_records_of_the_vectors_are_decoded_as_what_the_product_writes(name: str) -> None:
    known = json.loads((FOLDER / "records.json").read_text(encoding="utf-8"))[name]
    kinds = (ClickBatch, ImportanceBatch)
    old, new = (
        ARROW[name](
            bytes.fromhex(record["value_hex"]), [(key, text.encode()) for key, text in record["headers"].items()]
        )
        for record in (known, examples()[name])
    )
    assert isinstance(old, kinds)
    assert repr(old) == repr(new)


def test_the_examples_of_the_page_are_the_vectors() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert protocol_vectors.fill(page) == page, f"the page differs{WRITE}"
    shown = set(re.findall(r"<!-- vector: ([a-z-]+) -->", page))
    assert shown == {"hot", "digest", "new-epoch", "claim", "click", "agents", "fields", "replay", "agent-metrics",
                     "trainer-metrics", "embedding-shape", "embedding-digest", "embedding-manifest"}  # fmt: skip


# ---- schemas -------------------------------------------------------------------------------------------------------


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**SCHEMAS, "$ref": f"#/$defs/{name}"})


def messages() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = ASYNCAPI["components"]["messages"]
    return found


def check(message: str, record: dict[str, Any]) -> None:
    """Validates a record's headers and its value by the schemas that AsyncAPI names for the message."""
    parts = {"headers": record["headers"], "payload": None if record["value"] is None else json.loads(record["value"])}
    for part, content in parts.items():
        if part in messages()[message]:
            name = messages()[message][part]["$ref"].removeprefix("schemas.json#/$defs/")
            validator(name).validate(content)


def test_the_schemas_are_schemas() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS)


@pytest.mark.parametrize("name", [name for name in examples() if name not in {"restated", "new-epoch"}])
def test_every_record_of_the_vectors_is_valid(name: str) -> None:
    check(name.removesuffix("-more").removesuffix("-weights"), examples()[name])


def test_records_that_a_reader_refuses_are_invalid_as_far_as_a_schema_can_tell() -> None:
    beyond = ("differ between", "of key 0100000068fd1e65", "Kafka key", "version 1", "signed integer of 64 bits")
    cases = [case for case in refused() if not any(part in case["reason"] for part in beyond)]
    assert len(cases) >= 15
    for case in cases:
        with pytest.raises(jsonschema.ValidationError):
            check("digest" if '"kind":"digest"' in case["value"] else "hot", case)


def written_records() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every record of JSON that an agent writes in a run: the message and the record."""
    broker = broker_with_importance()
    count_all(broker)
    for topic, partitions in ((TOPICS.assignments, SHARDS), (TOPICS.metrics, 1), (TOPICS.control, 1)):
        for partition in range(partitions):
            for record in broker.records(topic, partition):
                written = protocol_vectors.written(record.key, record.value, record.headers)
                yield message_of(topic, written), written


def message_of(topic: str, record: dict[str, Any]) -> str:
    if record["value"] is None:
        return "cold"
    body = json.loads(record["value"])
    if topic == TOPICS.metrics:
        return f"{body['process']}-metrics"
    return str(body.get("kind", "hot"))


def test_every_record_that_an_agent_writes_is_valid() -> None:
    seen = set()
    for message, record in written_records():
        check(message, record)
        seen.add(message)
    assert seen == {"hot", "cold", "digest", "claim", "agent-metrics"}


# ---- AsyncAPI --------------------------------------------------------------------------------------------------------


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def test_every_reference_of_the_asyncapi_document_exists() -> None:
    found = list(references(ASYNCAPI))
    assert len(found) >= 40
    for reference in found:
        file, _, path = reference.partition("#/")
        node = SCHEMAS if file else ASYNCAPI
        for part in path.split("/"):
            node = node[part]
    assert {reference for reference in found if reference.startswith("#/components/messages/")} == {
        f"#/components/messages/{name}" for name in messages()
    }


def test_the_channels_of_the_asyncapi_document_are_the_topics_as_they_are_created() -> None:
    specs = {spec.name: spec for spec in [*Topics().specs(), Topics().embeddings_spec(shards=4)]}
    for channel in ASYNCAPI["channels"].values():
        spec = specs[channel["address"]]
        settings = channel["bindings"]["kafka"]["topicConfiguration"]
        assert settings.pop("cleanup.policy") == [spec.cleanup]
        assert {name: str(setting) for name, setting in settings.items()}.items() <= spec.configs.items()
    internal = {"hotstream.sketch-snapshots", *(name for name in specs if name.endswith(".dlq"))}
    assert {channel["address"] for channel in ASYNCAPI["channels"].values()} == set(specs) - internal
