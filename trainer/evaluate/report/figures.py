"""The figures that the documents show, each rendered from one result file by the name of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import StringIO
from typing import Any

from rich.console import Console

from sketch.bench.table import markdown as sketch_markdown
from trainer.demo.view import print_report
from trainer.evaluate.ablation import Effect, ablation_table
from trainer.evaluate.recovery import Recovery, recovery_table
from trainer.evaluate.report.tables import (
    Summary,
    closed_shares,
    closed_table,
    markdown,
    metric_table,
    paired_differences,
    paired_table,
    settings_table,
    summarise,
)

__all__ = ["KINDS", "all_tables", "read_recoveries"]

Results = Mapping[str, Any]
_MILLION = 1e6


def _each_model(render: Callable[[Sequence[Summary], str], str]) -> Callable[[Results], str]:
    """Returns a renderer of the tables of every model of a comparison."""

    def rendered(results: Results) -> str:
        summaries = summarise(results["cells"])
        models = dict.fromkeys(one.model for one in summaries)
        return "\n\n".join(table for model in models if (table := render(summaries, model)))

    return rendered


def _metric(metric: str) -> Callable[[Results], str]:
    return _each_model(partial(metric_table, metric=metric))


def read_recoveries(results: Results) -> list[Recovery]:
    """Returns the recoveries of a comparison with a rotation; an empty list if there was none."""
    derived = ("rows_until_near", "lost")
    return [
        Recovery(**{name: value for name, value in one.items() if name not in derived})
        for one in results.get("recovery", [])
    ]


def _effects(results: Results) -> str:
    return ablation_table([Effect(**one) for one in results["effects"]])


def all_tables(results: Results) -> str:
    """Returns all tables of an evaluation, as `hotstream evaluate` writes them."""
    if "effects" in results:
        return _effects(results)
    recovery = read_recoveries(results)
    tables = markdown(summarise(results["cells"]))
    return f"{recovery_table(recovery)}\n{tables}" if recovery else tables


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _machine(results: Results) -> str:
    machine = results["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB"


def _setup(results: Results) -> str:
    """Returns what a comparison ran on, as a sentence."""
    cells = results["cells"]
    models, seeds = ([str(one) for one in dict.fromkeys(cell[key] for cell in cells)] for key in ("model", "seed"))
    rows, features = (max(cell[key] for cell in cells) for key in ("rows", "features"))
    full_bytes = max(cell["budget_bytes"] * cell["compression"] for cell in cells)
    return (
        f"{rows:,} rows with {features:,} features (a full table with its optimizer state takes "
        f"{full_bytes / _MILLION:.0f} MB), {_list([model.upper() for model in models])}, D {results['preset']['dim']}, "
        f"{'seeds' if len(seeds) > 1 else 'seed'} {_list(seeds)}, {len(results['tried'])} cells; {_machine(results)}."
    )


def _summary(results: Results) -> str:
    """Returns the two comparisons that matter most, of the first model, as a sentence."""
    summaries = summarise(results["cells"])
    model = summaries[0].model
    shares = {ratio: share for (one, ratio), share in closed_shares(summaries, "hotstream", "cafe").items()
              if one == model}  # fmt: skip
    ahead = paired_differences(summaries, model, "robe")
    return (
        f"`hotstream` closes {_list([f'{100 * share:.0f} %' for share in shares.values()])} of the gap in AUC between "
        f"CAFE's published rule and the uncompressed table at {_list([f'{ratio:,.0f}x' for ratio in shares])}; over "
        f"`robe` it gains {_list([f'{mean:+.1f} ± {error:.1f}' for mean, error in ahead.values()])} at "
        f"{_list([f'{ratio:,.0f}x' for ratio in ahead])} (AUC x 1e-4, by seed)."
    )


def _sketch(first_column: str) -> Callable[[Results], str]:
    """Returns a renderer of the tables of `bench sketch` whose first column has this name."""

    def rendered(results: Results) -> str:
        tables = sketch_markdown(dict(results)).split("\n\n")
        return "\n\n".join(table.strip() for table in tables if table.startswith(f"| {first_column} |"))

    return rendered


def _cost(results: Results) -> str:
    lines = ["| D | batch | whole step | embedding part | embedding, ms | limit, ms | samples/s |", "|---" * 7 + "|"]
    lines += [
        f"| {case['dim']} | {case['batch_rows']} | {case['step_ratio']:.2f} x | {case['embedding_ratio']:.2f} x "
        f"| {case['embedding_ms']['adaptive']:.2f} | {case['limit_ms']:.2f} "
        f"| {case['samples_per_s']['adaptive']:,.0f} |"
        for case in results["cases"]
    ]
    return "\n".join(lines)


def _device_cost(results: Results) -> str:
    columns = ("D", "hot rows", "batch", "step: adaptive", "plain hash", "EmbeddingBag", "adaptive / EmbeddingBag",
               "embedding: adaptive", "plain hash", "EmbeddingBag", "limit", "samples/s")  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for case in results["cases"]:
        step, embedding = case["step_ms"], case["embedding_ms"]
        times = [
            *(step[name] for name in ("adaptive", "hash", "EmbeddingBag")),
            step["adaptive"] / step["EmbeddingBag"],
        ]
        times += [*(embedding[name] for name in ("adaptive", "hash", "EmbeddingBag")), case["limit_ms"]["adaptive"]]
        lines.append(
            f"| {case['dim']} | {case['capacity_rows']:,} | {case['batch_rows']:,} | "
            f"{' | '.join(f'{one:.2f}' for one in times)} | {case['samples_per_s']['adaptive']:,.0f} |"
        )
    return "\n".join(lines)


def _modes(results: Results) -> str:
    columns = list(dict.fromkeys((one["mode"], one["precision"]) for one in results["dense"]))
    lines = ["| D | batch | " + " | ".join(f"{mode}, {precision}" for mode, precision in columns) + " |"]
    lines.append("|---" * (2 + len(columns)) + "|")
    for dim, rows in dict.fromkeys((one["dim"], one["batch_rows"]) for one in results["dense"]):
        found = [one["ms"] for one in results["dense"] if (one["dim"], one["batch_rows"]) == (dim, rows)]
        lines.append(f"| {dim} | {rows:,} | " + " | ".join(f"{ms:.2f}" for ms in found) + " |")
    return "\n".join(lines)


def _precision(results: Results) -> str:
    lines = ["| seed | precision | rows | AUC | log loss |", "|---" * 5 + "|"]
    lines += [
        f"| {one['seed']} | {one['precision']} | {one['rows']:,} | {one['auc']:.4f} | {one['log_loss']:.4f} |"
        for one in results["precision"]
    ]
    return "\n".join(lines)


def _pipeline(results: Results) -> str:
    """Returns what the agent and the replay do, as a sentence."""
    latency = results["latency_ms"]
    quantiles_ms = latency["event_to_assignment"]
    return (
        f"An agent counts {results['agent']['features_per_s'] / _MILLION:.1f} M features/s on one core. At half of its "
        f"capacity beside a replay, {latency['rows_per_s']:,.0f} rows/s, half of the changes can be read within "
        f"{quantiles_ms['p50']:.0f} ms of the click record that caused them, 99 % within {quantiles_ms['p99']:.0f} ms "
        f"({_machine(results)}, {results['broker']} broker)."
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _scale(results: Results) -> str:
    """Returns what a large system needs."""
    lines = [f"| {one['what']} | {_number(one['value'])} {one['unit']} | {one['source']} |" for one in results["lines"]]
    return "\n".join(["| what | figure | from |", "|---" * 3 + "|", *lines])


def _simulated(results: Results) -> str:
    """Returns the small hot sets that the figures of a large one come from."""
    columns = ("hot rows", "features", "lookups that are hot", "in hindsight", "changes per M features", "bytes a row")
    lines = [
        f"| {one['capacity']:,} | {one['features']:,} | {one['hit_share']:.1%} | {one['best_share']:.1%} | "
        f"{one['changes_per_event'] * _MILLION:.0f} | {one['bytes_per_row']:.0f} |"
        for one in results["simulated"]
    ]
    return "\n".join(["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", *lines])


def _demo(results: Results) -> str:
    text = StringIO()
    print_report(Console(file=text, width=120), dict(results))
    return "```\n" + "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n```"


KINDS: Mapping[str, Callable[[Results], str]] = {
    "auc": _metric("auc"),
    "auc-last-60": _metric("auc_last_60"),
    "auc-last": _metric("auc_last"),
    "logloss": _metric("logloss"),
    "paired": _each_model(paired_table),
    "closed": _each_model(closed_table),
    "settings": lambda results: settings_table(summarise(results["cells"])),
    "recovery": lambda results: recovery_table(found) if (found := read_recoveries(results)) else "",
    "setup": _setup,
    "summary": _summary,
    "machine": _machine,
    "effects": _effects,
    "sketch-speed": _sketch("buckets"),
    "sketch-recall": _sketch("stream"),
    "sketch-guarantees": _sketch("Zipf exponent"),
    "trainer-cost": _cost,
    "device-cost": _device_cost,
    "device-modes": _modes,
    "device-precision": _precision,
    "pipeline": _pipeline,
    "demo": _demo,
    "scale": _scale,
    "simulated": _simulated,
}
