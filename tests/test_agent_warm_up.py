"""What an agent compiles before its first record is all that its records need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from dataclasses import replace
from agent_driver import SHARD_CONFIG, STEPS, importance_of
from sketch import review, tracking
from streams.agent.shard import REVIEW_MS, Shard
from streams.agent.warm_up import compile_kernels
from streams.records import decode_importance, encode_importance

def compiled():
    functions = {**vars(review), **vars(tracking)}
    return {name: len(function.signatures) for name, function in functions.items() if hasattr(function, "signatures")}

compile_kernels()
before, shard = compiled(), Shard(0, SHARD_CONFIG)
for step in range(STEPS):
    shard.count(step, decode_importance(*encode_importance(importance_of(step, 0))))
last = importance_of(STEPS, 0)
late = replace(last, keys=last.keys[:9], scores=last.scores[:9], event_time_ms=REVIEW_MS + STEPS)
shard.count(STEPS, decode_importance(*encode_importance(late)))
assert shard.seq > 0
Shard.from_bytes(shard.to_bytes(), SHARD_CONFIG)
later = {name: number for name, number in compiled().items() if number != before[name]}
print(later, before["update"], before["review_early"])
"""


def test_the_first_records_of_an_agent_compile_nothing():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "{} 1 1", done.stdout
