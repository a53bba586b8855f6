"""The wire contract, version 2: every record that hotstream writes or reads is encoded and decoded here only.

Decoders never raise because of a record's contents: they check its types, shapes, lengths and sizes before they use a
byte, and return a `BadRecord` with the reason. `docs/protocol.md` specifies the same format for other languages.
"""

from streams.records.assignments import (
    MAX_UNIQUE_ROWS,
    Assignment,
    Claim,
    Digest,
    OtherKind,
    decode_assignment,
    encode_assignment,
    encode_claim,
    encode_digest,
)
from streams.records.change_encoder import ChangeEncoder, Encoded
from streams.records.click_batch import NO_LABELS, ClickBatch
from streams.records.clicks import MAX_ROWS, decode_clicks, encode_clicks
from streams.records.configurations import (
    AgentConfiguration,
    decode_configuration,
    decode_fields,
    encode_configuration,
    encode_fields,
    newest_configuration,
)
from streams.records.dead_letters import DeadLetter, Letter, write_letter, write_line_letter
from streams.records.headers import ARROW, JSON, MAX_RECORD_BYTES, VERSION, BadRecord, Headers, header_int
from streams.records.importance import ImportanceBatch, Source, decode_importance, encode_importance
from streams.records.key_checks import find_invalid, has_foreign_key
from streams.records.metrics import (
    AgentMetrics,
    Metrics,
    ShardMetrics,
    TrainerMetrics,
    decode_metrics,
    encode_metrics,
)
from streams.records.more_values import (
    MAX_MORE,
    MoreValues,
    Weights,
    merge_key_weights,
    merge_more,
    more_of_rows,
    no_more,
)
from streams.records.replay_progress import REPLAY_KEY, ReplayProgress, decode_progress, encode_progress
from streams.records.snapshots import Manifest, SnapshotReader, SnapshotRecord, write_snapshot
from streams.records.values import decode_value, encode_value

__all__ = [
    "ARROW",
    "JSON",
    "MAX_MORE",
    "MAX_RECORD_BYTES",
    "MAX_ROWS",
    "MAX_UNIQUE_ROWS",
    "NO_LABELS",
    "REPLAY_KEY",
    "VERSION",
    "AgentConfiguration",
    "AgentMetrics",
    "Assignment",
    "BadRecord",
    "ChangeEncoder",
    "Claim",
    "ClickBatch",
    "DeadLetter",
    "Digest",
    "Encoded",
    "Headers",
    "ImportanceBatch",
    "Letter",
    "Manifest",
    "Metrics",
    "MoreValues",
    "OtherKind",
    "ReplayProgress",
    "ShardMetrics",
    "SnapshotReader",
    "SnapshotRecord",
    "Source",
    "TrainerMetrics",
    "Weights",
    "decode_assignment",
    "decode_clicks",
    "decode_configuration",
    "decode_fields",
    "decode_importance",
    "decode_metrics",
    "decode_progress",
    "decode_value",
    "encode_assignment",
    "encode_claim",
    "encode_clicks",
    "encode_configuration",
    "encode_digest",
    "encode_fields",
    "encode_importance",
    "encode_metrics",
    "encode_progress",
    "encode_value",
    "find_invalid",
    "has_foreign_key",
    "header_int",
    "merge_key_weights",
    "merge_more",
    "more_of_rows",
    "newest_configuration",
    "no_more",
    "write_letter",
    "write_line_letter",
    "write_snapshot",
]
