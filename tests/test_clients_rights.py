"""The documented rights are those that the commands check."""

from __future__ import annotations

import re
from pathlib import Path

from streams.clients.rights import ROLES
from streams.topics import Topics


def test_the_documented_rights_are_those_that_are_checked():
    text = (Path(__file__).parents[1] / "docs" / "security.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([A-Z, ]+) \| `([\w.-]+)` \|$", text, flags=re.MULTILINE)
    documented = {(role, topic, right) for role, rights, topic in rows for right in rights.split(", ")}
    assert documented == {
        (role, topic, right) for role, topics in ROLES.items() for topic, rights in topics.items() for right in rights
    }


def test_every_right_is_one_on_a_topic_that_exists():
    known = {
        spec.name for spec in (*Topics("p").specs(), Topics("p").values_spec(), Topics("p").embeddings_spec(shards=1))
    }
    assert {f"p.{topic}" for topics in ROLES.values() for topic in topics} <= known
