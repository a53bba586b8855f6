"""Every metric of every process, for Prometheus; no other module names one. `docs/metrics.md` lists them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METRICS", "PROCESSES", "Metric", "markdown_table"]

PROCESSES = ("agent", "train", "replay", "watch", "serve")


@dataclass(frozen=True)
class Metric:
    """A metric.

    Args:
        name: the name, which ends with the unit, and with `_total` if it is a counter.
        kind: `counter`, `gauge` or `histogram`.
        help: one sentence without a stop, for `# HELP`.
        labels: the names of its labels.
        processes: the commands whose processes have it.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    processes: tuple[str, ...] = PROCESSES


def _of(prefix: str, process: str, rows: list[tuple[str, ...]]) -> list[Metric]:
    """The metrics of one process: the end of the name, the type, the help, and the labels."""
    return [
        Metric(f"hotstream_{prefix}_{name}", kind, words, tuple(labels), (process,))
        for name, kind, words, *labels in rows
    ]


_EVERY = [
    Metric("hotstream_build_info", "gauge", "Always 1", ("version", "process")),
    Metric("hotstream_ready", "gauge", "Whether /readyz answers 200: the broker answers, and what comes is read"),
    Metric("hotstream_healthy", "gauge", "Whether /healthz answers 200: no thread has died or stands still"),
    Metric(
        "hotstream_broker_answer_age_seconds", "gauge",
        "The time since the broker last answered; it is asked every second",
    ),
    Metric(
        "hotstream_broker_wait_seconds", "gauge",
        "How long the clients of this process have waited for the broker; 0 while it answers",
    ),
]  # fmt: skip

_AGENT = _of("agent", "agent", [
    ("records_total", "counter", "Importance records counted", "shard"),
    ("repeated_records_total", "counter", "Importance records that had been counted before", "shard"),
    ("events_total", "counter", "Feature events counted", "shard"),
    ("promotions_total", "counter", "Features that became hot", "shard"),
    ("demotions_total", "counter", "Features that became cold", "shard"),
    ("rejects_total", "counter", "Records and scores that did not count, by reason", "reason"),
    ("dead_letters_total", "counter", "Records sent to the dead letters"),
    ("hot_features", "gauge", "Hot features now", "shard"),
    ("recall_ratio", "gauge", "Estimated share of the features that should be hot which are", "shard"),
    ("hot_rows", "gauge", "Unique rows of the shard, which hot features may have", "shard"),
    ("capacity_rows", "gauge", "Unique rows of all shards of all agents"),
    ("shards", "gauge", "Shards that this process owns"),
    ("epoch", "gauge", "Number of the configuration", "shard"),
    ("lag_records", "gauge", "Importance records that are written and not counted", "shard"),
    ("lag_seconds", "gauge", "Age of the newest counted record while others wait; 0 if none waits", "shard"),
    ("event_timestamp_seconds", "gauge", "Event time of the newest counted record, in Unix time", "shard"),
    ("snapshot_age_seconds", "gauge", "Time since the newest snapshot was written or loaded", "shard"),
    ("unsaved_records", "gauge", "Records counted since the newest snapshot, which a restart counts again", "shard"),
    ("count_delay_seconds", "histogram", "Time from the writing of an importance record until it was counted"),
])  # fmt: skip

_TRAINER = _of("trainer", "train", [
    ("rows_total", "counter", "Click rows trained"),
    ("click_records_total", "counter", "Click records trained, each of them one step"),
    ("importance_keys_total", "counter", "Keys whose importance was sent"),
    ("assignments_total", "counter", "Changes of the hot set that were read, by what became of them", "result"),
    ("promotions_total", "counter", "Features that got a unique row"),
    ("demotions_total", "counter", "Features that lost their unique row"),
    ("dead_letters_total", "counter", "Records sent to the dead letters, by the topic that they came from", "topic"),
    ("refused_steps_total", "counter", "Steps refused, because a loss or gradient was not finite"),
    ("failed_checkpoints_total", "counter", "Checkpoints that could not be written"),
    ("digest_mismatches_total", "counter", "Digests of the agents that differ from the table: a change was lost"),
    ("hot_features", "gauge", "Hot features of the model"),
    ("capacity_rows", "gauge", "Unique rows of the model"),
    ("embedding_bytes", "gauge", "Size of an embedding with everything that belongs to it", "learner"),
    ("unique_lookups_ratio", "gauge", "Share of lookups that unique rows served, in the last step before a report"),
    ("lag_records", "gauge", "Click records that are written and not trained"),
    ("lag_seconds", "gauge", "Age of the newest trained click record while others wait; 0 if none waits"),
    ("event_timestamp_seconds", "gauge", "Event time of the newest trained rows, in Unix time"),
    ("apply_lag_seconds", "gauge", "Time from the event that caused the newest applied change until then"),
    ("table_verified", "gauge", "1 if the hot set equals the agents', 0 if a digest differs, absent before one"),
    ("auc", "gauge", "Area under the ROC curve of predictions before training", "learner", "rows"),
    ("log_loss", "gauge", "Mean log loss of predictions before training, in nats", "learner"),
    ("checkpoint_age_seconds", "gauge", "Time since the newest checkpoint was written, or since the start"),
    ("step_seconds", "histogram", "Time of a training step"),
    ("assignment_delay_seconds", "histogram", "Time from the writing of a change until it was applied"),
])  # fmt: skip

_REPLAY = _of("replay", "replay", [
    ("rows_total", "counter", "Rows of the log, by what became of them: sent, bad or skipped", "result"),
    ("click_records_total", "counter", "Click records sent"),
    ("read_bytes", "gauge", "Bytes of the files read in this pass, as stored"),
    ("file_bytes", "gauge", "Bytes of all files, as stored"),
])  # fmt: skip

_WATCH = _of("watch", "watch", [
    ("changes_total", "counter", "Changes of the hot set, by the tier that the feature got", "tier"),
    ("bad_records_total", "counter", "Malformed or invalid records"),
    ("hot_features", "gauge", "Hot features of the table"),
    ("lag_records", "gauge", "Records that are written and not read"),
    ("table_verified", "gauge", "1 if the table equals the agents', 0 if a digest differs, absent before one"),
    ("change_delay_seconds", "histogram", "Time from the click record that caused a change until the change was read"),
])  # fmt: skip

_REPLICA = _of("replica", "serve", [
    ("lookups_total", "counter", "Lookups of vectors, by the tier that served them", "field", "tier"),
    ("bad_records_total", "counter", "Malformed records"),
    ("refused_records_total", "counter", "Rows that do not fit the model"),
    ("digest_mismatches_total", "counter", "Digests of the trainer that differ from the rows that were read"),
    ("rereads_total", "counter", "Partitions that were read again from their beginning after a differing digest"),
    ("hot_features", "gauge", "Features with a unique row"),
    ("trained_rows", "gauge", "Click rows that the trainer had trained for what is served"),
    ("staleness_seconds", "gauge", "Age of the newest record, of the partition where that is oldest; of an export"),
    ("lag_records", "gauge", "Records that are written and not read"),
    ("verified", "gauge", "1 if the rows equal the trainer's, 0 if a digest differs, absent before one", "shard"),
])  # fmt: skip

_SERVE = _of("serve", "serve", [
    ("requests_total", "counter", "Inference requests, by the status of the answer", "status"),
    ("request_seconds", "histogram", "Time of an inference request, from its arrival to the answer"),
])  # fmt: skip

METRICS = {metric.name: metric for metric in (*_EVERY, *_AGENT, *_TRAINER, *_REPLAY, *_WATCH, *_REPLICA, *_SERVE)}


def markdown_table() -> str:
    """The metrics as a Markdown table."""
    lines = ["| metric | type | of | meaning |", "|---|---|---|---|"]
    for metric in METRICS.values():
        labels = f"{{{', '.join(metric.labels)}}}" if metric.labels else ""
        of = "all" if metric.processes == PROCESSES else ", ".join(metric.processes)
        lines.append(f"| `{metric.name}{labels}` | {metric.kind} | {of} | {metric.help} |")
    return "\n".join(lines)
