"""The advice as text: the profile, a table of the ratios, where its estimates come from, and the next commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from sketch.hotset import REVIEW_EVENTS
from trainer.advise.measured import Measured, QualityCost
from trainer.advise.profile import LogProfile
from trainer.advise.sample import Sample
from trainer.advise.sizing import Size, Wishes, full_bytes

__all__ = ["describe", "next_commands"]

_MOST_FIELDS = 40


def _bytes(number: float | None) -> str:
    if number is None:
        return "-"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} B"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _cores(number: float) -> str:
    return f"{number:.2f}" if number >= 0.01 else "less than 0.01"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines with aligned columns: the first to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [cell.ljust(width) if not n else cell.rjust(width) for n, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip  # noqa: E501
        yield "  ".join(cells).rstrip()


def describe(
    sample: Sample,
    profile: LogProfile,
    sizes: Sequence[Size],
    wishes: Wishes,
    load: dict[str, float],
    measured: Measured,
    pace: str,
) -> Iterator[str]:
    """The lines of the advice without the next commands; `pace` tells where the rows a second come from."""
    yield from _profile_lines(sample, profile)
    yield ""
    yield from _field_lines(profile)
    yield ""
    yield from _size_lines(profile, sizes, wishes, measured)
    yield ""
    yield f"At {wishes.rows_per_s:,.0f} rows/s ({pace}), whatever the ratio:"
    yield (
        f"  topics, uncompressed: clicks {_bytes(load['clicks_bytes_per_s'])}/s, importance "
        f"{_bytes(load['importance_bytes_per_s'])}/s"
    )
    yield (
        f"  agent cores: {_cores(load['agent_cores_gradient'])} with a trainer's gradients, "
        f"{_cores(load['agent_cores_frequency'])} with --signal frequency (from {measured.agent_source})"
    )


def _profile_lines(sample: Sample, profile: LogProfile) -> Iterator[str]:
    drift = profile.drift
    whole = "" if sample.log_rows in (None, profile.rows) else f" of about {sample.log_rows:,} (by bytes)"
    yield (
        f"{profile.rows:,} rows{whole}, {len(profile.fields)} fields, {profile.features:,} features, "
        f"{_percent(profile.once)} of them once"
    )
    exponent = "" if profile.exponent is None else f", Zipf exponent {profile.exponent:.2f}"
    yield f"growth: the second half of the rows made the features {profile.growth:.2f} times as many{exponent}"
    tops = ", ".join(f"{_percent(share)} in the top {part:.1%}" for part, share in profile.top_shares.items())
    yield f"lookups: {tops} of the features"
    ranks = ", ".join(f"{rank:,}: {_percent(share)}" for rank, share in profile.rank_shares.items())
    yield f"lookups up to rank {ranks}"
    yield (
        f"drift: {_percent(drift.new)} of the second half's lookups are features that the first half lacks; the first "
        f"half's top 1 % holds {_percent(drift.hits_later)} of them, {_percent(drift.hits_same_time)} without time "
        f"between, so a hot set that does not follow loses {_percent(drift.lost)}"
    )


def _field_lines(profile: LogProfile) -> Iterator[str]:
    """A line for each of the largest fields; where fields have lists, also their values in a row."""
    has_lists = any(one.lookups_per_row > 1 for one in profile.fields)
    head = ["field", "values", "once", "missing", *(["in a row"] if has_lists else []), "most frequent", "Zipf"]
    yield from _table(
        head,
        [
            [
                one.name,
                f"{one.features:,}",
                _percent(one.once),
                _percent(one.missing),
                *([f"{one.lookups_per_row:.2f}"] if has_lists else []),
                _percent(one.top),
                "-" if one.exponent is None else f"{one.exponent:.2f}",
            ]
            for one in sorted(profile.fields, key=lambda one: -one.features)[:_MOST_FIELDS]
        ],
    )


def _size_lines(profile: LogProfile, sizes: Sequence[Size], wishes: Wishes, measured: Measured) -> Iterator[str]:
    costs = measured.costs(wishes.dim, wishes.row_format)
    streams = list(dict.fromkeys((one.stream, one.source) for one in costs))
    yield (
        f"Full table: {wishes.features:,} float32 rows of D {wishes.dim} with Adagrad state, "
        f"{_bytes(full_bytes(wishes.features, wishes.dim))}. Rows in {wishes.row_format}:"
    )
    head = ("ratio", "embedding", "serving", "unique rows", "shared rows", "lookups hot", "of at most", "agent memory",
            "changes/s", "assignments", *(f"AUC cost [{number}]" for number in range(1, len(streams) + 1)))  # fmt: skip
    yield from _table(head, [_size_row(size, streams, len(head)) for size in sizes])
    for size in sizes:
        if size.infeasible is not None:
            yield f"{size.compression:g}x: {size.infeasible}"
    yield (
        "lookups hot: of the second half, by an agent that counted the rows before; of at most: the most frequent "
        "features of the sample, in hindsight. Changes are those of the second half; a longer run makes fewer."
    )
    if any(size.tracked is not None and not size.tracked.num_hot for size in sizes):
        yield (
            f"lookups hot is 0 where the agent made no change: its first one comes after {REVIEW_EVENTS:,} features of "
            "click records, and this sample has fewer. Read more rows."
        )
    yield (
        "AUC cost: full minus hotstream, x 1e-4 ± standard error, measured on other rows than yours, with the agent's "
        "memory inside the bytes of the ratio:"
    )
    for number, (stream, source) in enumerate(streams, 1):
        first = next(one for one in costs if one.source == source)
        yield f"  [{number}] {stream}, {first.rows:,} rows, {first.seeds} seeds (benchmarks/results/{source})"
    if not streams:
        yield f"  nothing was measured at D {wishes.dim} with rows in {wishes.row_format}"
    yield "For your rows: the command `hotstream evaluate` below."
    if wishes.features == profile.features:
        yield "The whole log has more features than the sample; --full-features N counts them in."


def _size_row(size: Size, streams: Sequence[tuple[str, str]], width: int) -> list[str]:
    name = f"{size.compression:g}x"
    if size.infeasible is not None:
        return [name, "infeasible", *(["-"] * (width - 2))]
    tracked = size.tracked
    return [
        name,
        _bytes(size.embedding_bytes),
        _bytes(size.serving_bytes),
        f"{size.unique_rows:,}",
        f"{size.shared_rows:,}",
        _percent(tracked.hit_share) if tracked else "-",
        _percent(size.best_share),
        _bytes(tracked.agent_bytes) if tracked else "-",
        "-" if size.changes_per_s is None else f"{size.changes_per_s:,.1f}",
        f"{_bytes(size.assignment_bytes_per_s)}/s" if tracked else "-",
        *(_cost(size.costs, source) for _, source in streams),
    ]


def _cost(costs: Sequence[QualityCost], source: str) -> str:
    found = [one for one in costs if one.source == source]
    return f"{found[0].auc * 1e4:+.0f} ± {found[0].error * 1e4:.0f}" if found else "not measured"


def next_commands(
    files: Sequence[str], schema: str, sizes: Sequence[Size], wishes: Wishes, *, has_label: bool
) -> list[str]:
    """The commands to go on with: measure on these rows, then topics, and agent and trainer of each ratio."""
    log = shlex.join([*files, "--schema", schema])
    ratios = ",".join(f"{one.compression:g}" for one in sizes if one.infeasible is None)
    lines = [f"hotstream schema check {shlex.join([files[0], '--schema', schema])}"]
    if has_label and ratios:
        lines.append(
            f"hotstream evaluate {log} --preset reference --dim {wishes.dim} --methods full,hash,robe,hotstream "
            f"--compression {ratios}"
        )
    lines.append("hotstream topics create --shards 2")
    lines.append("# one of the ratios:")
    for size in sizes:
        if size.infeasible is not None:
            continue
        capacity, ratio = f"--capacity {size.unique_rows}", f"  # {size.compression:g}x"
        if has_label:
            lines.append(f"hotstream agent {capacity}{ratio}")
            lines.append(
                f"hotstream train {capacity} --dim {wishes.dim} --row-format {wishes.row_format} "
                f"--schema {shlex.quote(schema)} --checkpoint-dir run{size.compression:g}x"
            )
        else:
            lines.append(f"hotstream agent {capacity} --signal frequency --schema {shlex.quote(schema)}{ratio}")
    lines.append(f"hotstream replay {log}")
    return lines
