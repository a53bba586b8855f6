"""The profile of a log: counts by hand, a power law, drift with and without time, and what an agent makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from streams.keys import MISSING, PAYLOAD_BITS, Field
from streams.records import MoreValues
from trainer.advise.lookups import Lookups
from trainer.advise.profile import profile
from trainer.advise.tracking import measure_importance, track

FIELDS = (Field("site"), Field("ad"))


def lookups_of(*columns):
    """The lookups of columns of payloads."""
    numbers = np.arange(1, len(columns) + 1, dtype=np.uint64) << np.uint64(PAYLOAD_BITS)
    return Lookups.of(np.array(columns, np.uint64).T | numbers)


def test_the_profile_counts_values_lookups_and_missing_ones_by_field():
    found = profile(lookups_of([1, 1, 1, 2], [1, 5, 6, MISSING]), FIELDS)
    assert (found.rows, found.features) == (4, 6)
    assert found.once == 5 / 6
    assert found.counts.tolist() == [3, 1, 1, 1, 1, 1]
    assert found.rank_shares == {1: 3 / 8, 6: 1.0}
    assert found.share_of(2) == 4 / 8
    assert found.growth == 6 / 3
    site, ad = found.fields
    assert (site.name, site.features, site.once, site.missing, site.top) == ("site", 2, 0.5, 0.0, 0.75)
    assert (ad.name, ad.features, ad.once, ad.missing, ad.top) == ("ad", 4, 1.0, 0.25, 0.25)
    assert site.exponent is None


@pytest.mark.parametrize("exponent", [0.7, 1.2])
def test_the_exponent_is_that_of_a_power_law(exponent):
    counts = np.round(1e4 * np.arange(1, 2001) ** -exponent).astype(int)
    values = np.repeat(np.arange(len(counts)), counts)
    found = profile(lookups_of(np.random.default_rng(0).permutation(values)), FIELDS[:1])
    assert found.exponent == pytest.approx(exponent, abs=0.02)
    assert found.fields[0].exponent == found.exponent


def test_a_log_that_repeats_itself_has_no_drift_and_one_that_changes_its_values_loses_all():
    rng = np.random.default_rng(1)
    values = np.floor(300 * rng.random(4000) ** 4)
    repeated, replaced = np.concatenate([values, values]), np.concatenate([values, values + 1000])
    still, moved = (profile(lookups_of(column), FIELDS[:1]).drift for column in (repeated, replaced))
    assert still.new == 0
    assert abs(still.lost) < 0.01
    assert still.hits_later > 0.2
    assert (moved.new, moved.hits_later) == (1.0, 0.0)
    assert moved.lost == moved.hits_same_time > 0.2


def test_an_agent_holds_what_is_frequent_and_its_records_have_the_bytes_of_the_encoders():
    rng = np.random.default_rng(2)
    lookups = lookups_of(np.zeros(30_000), rng.integers(0, 5000, 30_000))
    tracked = track(lookups, FIELDS, 16)
    assert tracked.num_hot <= 16
    assert 0.5 <= tracked.hit_share < 0.52
    assert tracked.agent_bytes > 16 * 64
    assert track(lookups, FIELDS, 400).changes_per_row > 0
    assert track(lookups, FIELDS, 400).change_bytes > 100
    load = measure_importance(lookups, FIELDS)
    keys = lookups.keys.reshape(-1, 2)
    distinct = sum(len(np.unique(keys[start : start + 2048])) for start in range(0, 30_000, 2048))
    assert load.features_per_row == distinct / 30_000
    assert load.bytes_per_row > 12 * load.features_per_row


def test_every_value_of_a_list_is_a_lookup_of_its_row():
    site, ad = (np.uint64(number) << np.uint64(PAYLOAD_BITS) for number in (1, 2))
    first = np.array([[site + 1, ad + 1], [site + 1, ad + 2], [site + 2, ad | MISSING]], np.uint64)
    more = MoreValues(offsets=np.array([0, 0, 3, 3]), keys=np.array([ad + 1, ad + 1, ad + 3], np.uint64))
    lookups = Lookups.of(first, more)
    assert lookups.rows.tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 2]
    assert lookups.between(1, 9).keys.tolist() == [*first[1].tolist(), *more.keys.tolist(), *first[2].tolist()]
    assert [len(record) for record in lookups.records(2)] == [7, 2]
    found = profile(lookups, FIELDS)
    assert (found.rows, found.features, found.counts.tolist()) == (3, 6, [3, 2, 1, 1, 1, 1])
    assert found.growth == 6 / 2  # the first half is one row
    assert found.drift.new == 4 / 7  # ad 2 and 3, site 2 and no ad
    tags = found.fields[1]
    assert (tags.features, tags.missing, tags.lookups_per_row, tags.top) == (4, 1 / 3, 2.0, 3 / 6)
    assert found.fields[0].lookups_per_row == 1.0


def test_an_agent_holds_a_value_that_is_never_a_first_one():
    rng = np.random.default_rng(4)
    rows, second = 20_000, np.uint64(1 << PAYLOAD_BITS | 999_999)
    first = lookups_of(rng.integers(0, 5000, rows)).keys.reshape(-1, 1)
    more = MoreValues(offsets=np.arange(rows + 1), keys=np.full(rows, second))
    tracked = track(Lookups.of(first, more), FIELDS[:1], 8)
    assert 0.5 <= tracked.hit_share < 0.53
