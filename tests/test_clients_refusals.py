"""A broker's refusal is explained by the right that lacks."""

from __future__ import annotations

import aiokafka.errors
import kafka.errors
import pytest

from streams.clients.refusals import explain_refusal, is_forbidden


@pytest.mark.parametrize("library", [kafka.errors, aiokafka.errors])
def test_the_right_is_named_whichever_library_reports_it(library):
    for named in ("p.clicks", {"p.clicks"}):
        assert explain_refusal(library.TopicAuthorizationFailedError(named), "READ").startswith(
            "this user lacks READ on topic p.clicks; "
        )
    unnamed = library.TopicAuthorizationFailedError()
    assert explain_refusal(unnamed, "WRITE", "p.clicks").startswith("this user lacks WRITE on topic p.clicks; ")
    group = library.GroupAuthorizationFailedError("agents")
    assert explain_refusal(group, "WRITE").startswith("this user lacks READ on group agents; ")
    assert is_forbidden(unnamed)
    assert is_forbidden(group)


@pytest.mark.parametrize("library", [kafka.errors, aiokafka.errors])
def test_another_error_is_shown_as_it_is(library):
    error = library.NotLeaderForPartitionError("p.clicks")
    assert explain_refusal(error, "READ") == str(error)
    assert not is_forbidden(error)
