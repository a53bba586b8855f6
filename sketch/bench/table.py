"""The results of `bench sketch` as Markdown tables and as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sketch.bench.benchmark import PAPER_BYTES

__all__ = ["draw", "markdown"]


def _rows(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def markdown(report: dict[str, Any]) -> str:
    """The report's tables: speed (million keys per second, shares of the limit), recall and churn, guarantees."""
    speed = [
        [
            f"{row['buckets']:,}",
            row["admission"],
            f"{row['inserts_per_s'] / 1e6:.0f}",
            f"{row['queries_per_s'] / 1e6:.0f}",
            f"{row['updates_per_s'] / 1e6:.0f}",
            f"{row['updates_per_s'] / row['inserts_per_s']:.2f}",
            f"{row['fills_per_s'] / 1e6:.0f}",
            f"{row['fill_of_insert']:.2f}",
            f"{row['fill_changes_per_s'] / 1e6:.2f}",
            f"{row['limit_per_s'] / 1e6:.0f}",
            f"{row['inserts_per_s'] / row['limit_per_s']:.2f}",
            f"{row['stream_limit_per_s'] / 1e6:.0f}",
            f"{row['inserts_per_s'] / row['stream_limit_per_s']:.2f}",
            f"{row['replace_min_per_s'] / 1e6:.0f}",
        ]
        for row in report["speed"]
    ]
    recall = [
        [
            row["stream"],
            f"{row['k']:,}",
            str(row["shards"]),
            row["admission"],
            f"{row['bytes_per_row']:.0f}",
            row["half_life"],
            f"{row['recall']:.3f}",
            f"{row['recall_without_decay']:.3f}" if "recall_without_decay" in row else "",
            f"{row['hot_set_recall']:.3f}",
            f"{row['covered']:.3f}",
            f"{row['promotions']:,}",
            f"{row['demotions']:,}",
            f"{row['demotions_second_half']:,}",
            " / ".join(f"{row[name]:.3f}" for name in ("held_after_1m", "hot_after_1m") if name in row) or "",
        ]
        for row in report["recall"]
    ]
    text = _rows(
        [
            "buckets",
            "admission",
            "inserts M/s",
            "queries M/s",
            "hot set M/s",
            "of inserts",
            "fill M/s",
            "of inserts",
            "fill changes M/s",
            "limit M/s",
            "of limit",
            "stream's lines M/s",
            "of those",
            "plain M/s",
        ],
        speed,
    )
    text += "\n" + _rows(
        [
            "stream",
            "k",
            "shards",
            "admission",
            "bytes a row",
            "half-life in",
            "recall",
            "without decay",
            "hot set",
            "covered",
            "promotions",
            "demotions",
            "... in 2nd half",
            "1 M events after: held / hot",
        ],
        recall,
    )
    if report.get("guarantees"):
        text += "\n" + _rows(
            ["Zipf exponent", "share", "planted", "Theorem 3.1", "Theorem 3.3", "replace_min", "randomized"],
            [
                [
                    f"{row['exponent']}",
                    f"{row['share']:g}",
                    str(row["planted"]),
                    *(f"{row[name]:.3f}" for name in ("bound_any_stream", "bound_zipf", "replace_min", "randomized")),
                ]
                for row in report["guarantees"]
            ],
        )
    return text


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws speed over the number of buckets, and recall by stream."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (half a second, and only for the picture)

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for admission in ("randomized", "replace_min"):
        rows = [row for row in report["speed"] if row["admission"] == admission]
        left.plot([r["buckets"] for r in rows], [r["inserts_per_s"] / 1e6 for r in rows], "o-", label=admission)
    rows = [row for row in report["speed"] if row["admission"] == "randomized"]
    for name, label in (
        ("limit_per_s", "limit: a random line a key"),
        ("stream_limit_per_s", "limit: the stream's own lines"),
        ("replace_min_per_s", "replace_min, plain numba"),
    ):
        left.plot([r["buckets"] for r in rows], [r[name] / 1e6 for r in rows], "s--", label=label)
    left.set(xscale="log", yscale="log", xlabel="buckets", ylabel="million keys a second, one thread")
    left.legend(fontsize=8)
    # The picture shows one sketch in the paper's memory.
    shown = [row for row in report["recall"]
             if row["bytes_per_row"] == PAPER_BYTES and row["shards"] == 1]  # fmt: skip
    kinds = list(dict.fromkeys((row["k"], row["admission"]) for row in shown))
    names = list(dict.fromkeys(row["stream"] for row in shown))
    width = 0.8 / max(len(kinds), 1)
    for number, kind in enumerate(kinds):
        found = {row["stream"]: row["recall"] for row in shown if (row["k"], row["admission"]) == kind}
        positions = [at + number * width for at, name in enumerate(names) if name in found]
        label = f"k {kind[0]:,}, {kind[1]}"
        right.bar(positions, [found[name] for name in names if name in found], width, label=label)
    right.set_xticks([at + 0.4 - width / 2 for at in range(len(names))], names)
    right.set(ylabel="recall of the true top k", ylim=(0, 1.02))
    right.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    figure.savefig(path, dpi=110)
