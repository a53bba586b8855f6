"""Trainer and agents agree on the number of unique rows, which the control topic has."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from trainer.errors import PlanError
from trainer.learning.model_config import ModelConfig
from trainer.process.agents_capacity import fit_to_agents

COMPOSE = Path(__file__).resolve().parent.parent / "docker" / "compose.yml"


def test_a_trainer_without_a_size_takes_the_agents():
    model = fit_to_agents(ModelConfig(compression=1000.0), 70, 4, is_sized=False)
    assert model.plan(4).capacity_rows == 70
    assert model == ModelConfig(capacity_rows=70)


def test_a_trainer_with_fewer_rows_than_the_agents_is_refused_and_one_with_more_is_told(caplog):
    with pytest.raises(
        PlanError, match=r"has 60 unique rows, and the agents assign 70: .* --capacity 70, or the agents"
    ):
        fit_to_agents(ModelConfig(capacity_rows=60), 70, 4, is_sized=True)
    caplog.set_level(logging.INFO)
    equal = ModelConfig(capacity_rows=70)
    assert fit_to_agents(equal, 70, 4, is_sized=True) is equal
    assert not caplog.records
    larger = ModelConfig(capacity_rows=200)
    assert fit_to_agents(larger, 70, 4, is_sized=True) is larger
    assert "200 unique rows, and the agents assign 70: 65 % of them are never used" in caplog.text


def test_a_trainer_before_the_first_agent_names_the_capacity_that_agents_need(caplog):
    caplog.set_level(logging.INFO)
    model = ModelConfig(compression=1000.0)
    assert fit_to_agents(model, None, 26, is_sized=False) is model
    assert f"must be {model.plan(26).capacity_rows}, the unique rows" in caplog.text


def test_the_services_of_the_compose_file_have_one_capacity_and_keep_checkpoints_in_a_volume():
    text = COMPOSE.read_text()
    capacities = re.findall(r'command: \["(?:agent|train)", "--capacity", "(\d+)"', text)
    assert len(capacities) == 2
    assert len(set(capacities)) == 1
    assert '"--checkpoint-dir", "/data/checkpoints"' in text
    assert "- trainer:/data\n" in text
