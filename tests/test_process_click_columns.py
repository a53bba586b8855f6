"""Which click records a model can be trained on: those of its fields, shorter and longer ones, with labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from trainer_batches import NUM_FIELDS, click_batch

from streams.keys import MISSING, Field
from streams.records import BadRecord, ClickBatch
from trainer.learning.quality import Windows
from trainer.process.click_columns import fit_columns
from trainer.process.progress import Progress

BATCH = click_batch(5, 0)
COLUMNS = BATCH.fields, 2


def test_a_batch_of_the_models_columns_is_taken_as_it_is() -> None:
    assert fit_columns(BATCH, COLUMNS) is BATCH
    assert fit_columns(BATCH, None) is BATCH


def test_fields_behind_the_models_are_left_out_and_those_that_lack_are_missing() -> None:
    shorter = fit_columns(BATCH, (BATCH.fields[:2], 2))
    assert isinstance(shorter, ClickBatch)
    assert shorter.fields == BATCH.fields[:2]
    np.testing.assert_array_equal(shorter.keys, BATCH.keys[:, :2])
    longer = fit_columns(BATCH, ((*BATCH.fields, Field("new")), 2))
    assert isinstance(longer, ClickBatch)
    np.testing.assert_array_equal(longer.keys[:, :NUM_FIELDS], BATCH.keys)
    assert set(longer.keys[:, NUM_FIELDS].tolist()) == {(NUM_FIELDS + 1) << 56 | MISSING}


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (click_batch(5, 0, num_dense=1), "got 4 fields and 1 dense columns, expected 4 and 2; name the schema"),
        (replace(BATCH, fields=(Field("x"), *BATCH.fields[1:])), "field 1: got x .hash., expected f0 .hash.; name the"),
        (replace(BATCH, label=None), "the rows have no labels, expected 0 or 1"),
    ],
)
def test_a_batch_of_another_schema_or_without_labels_is_refused(batch: ClickBatch, reason: str) -> None:
    refused = fit_columns(batch, COLUMNS)
    assert isinstance(refused, BadRecord)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(refused.reason)


def test_the_share_of_refused_records_is_that_of_this_process() -> None:
    progress = Progress(Windows(["adaptive"]))
    progress.click_records = 30
    for reason in ("a", "b", "b"):
        progress.refuse_clicks(reason)
    assert progress.refused_share == 3 / 33
    assert progress.describe_refused_clicks() == ["2 x b", "1 x a"]
    resumed = Progress(Windows(["adaptive"]))
    resumed.load_state(progress.to_state())
    assert (resumed.bad_clicks, resumed.refused_share) == (3, 0)
    resumed.click_records += 1
    resumed.refuse_clicks("c")
    assert resumed.refused_share == 0.5
    for number in range(1000):
        resumed.refuse_clicks(f"reason {number}")
    assert len(resumed.reasons) < 110
