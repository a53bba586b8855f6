"""Infers a log schema from a sample of the log, as the text of a TOML file to read over and correct.

The roles follow from the columns' names and values: what is certain of no column is written as a comment beside it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from streams.logs.labels import LabelRule
from streams.logs.sample import Sample
from streams.logs.texts import number_remedy, parse_number
from streams.logs.times import fitting_formats, parse_time_ms

__all__ = ["infer_schema"]

_LABELS = re.compile(r"label|y|target|(is_?)?(click(s|ed)?|clk)|conver(sion|ted)|b(uy|ought)|purchased?", re.IGNORECASE)
_WEIGHTS = re.compile(r"(sample_?|row_?|instance_?)?weight", re.IGNORECASE)
_TIMES = re.compile(r"(.*[_.])?(ts|time|timestamp|date|datetime|hour|day|at)([_.].*)?|.*time(stamp)?", re.IGNORECASE)
_NUMBERS = re.compile(
    r".*(price|amount|count|cnt|score|rate|ratio|age|duration|length|ctr|cost|bid|width|height|num).*", re.IGNORECASE
)
_YES = ("yes", "y", "t", "click", "clicked", "pos", "positive")
_NO = ("no", "n", "f", "none", "noclick", "not clicked", "neg", "negative")
_AROUND_NAMES = " ?!*#_-()[]"  # a label is one, too, if its name is `Clicked?`
_MOST_BAD = 0.05  # of the cells of the label, and of the time
_MISSING = ("NULL", "null", "NaN", "nan", "None", "none", r"\N", "N/A", "NA", "-")
_HEX = re.compile(r"[0-9a-fA-F]{8}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_FIELDS = 255
_MANY_ROWS = 50


@dataclass
class _Roles:
    """The roles of the columns, and what is not certain of some, or why they have no role."""

    label: str | None = None
    rule: LabelRule | None = None
    weight: str | None = None
    time: str | None = None
    time_format: str | None = None
    dense: list[str] = field(default_factory=list)
    categorical: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def infer_schema(sample: Sample) -> str:
    """The text of a schema file."""
    present = {name: [text for text in texts if text] for name, texts in sample.columns.items()}
    roles = _Roles()
    _choose_label(roles, present, is_named=sample.has_header)
    _choose_time(roles, sample, present)
    for name, texts in sample.columns.items():
        if name in sample.leading and name != roles.label:
            reason = "add it to dense or categorical if it is known before the click (a price that was paid is not)"
            roles.notes[name] = f"stands before the pairs; {reason}"
        elif name not in (roles.label, roles.time):
            _choose_role(roles, name, present[name], len(texts))
    _warn_of_positions(roles, sample)
    for name, texts in sample.lists.items():
        _choose_role_of_list(roles, sample, name, [text for text in texts if text])
    listed = {name: [text for text in texts if text] for name, texts in sample.lists.items()}
    return "\n".join(_write(roles, sample, {**present, **listed})) + "\n"


def _choose_role_of_list(roles: _Roles, sample: Sample, name: str, texts: Sequence[str]) -> None:
    """Lists of categories are several values of a field; lists of objects or of numbers with decimals are not."""
    numbers = [parse_number(text.encode()) for text in texts]
    if texts and not any(number is not None and number % 1 for number in numbers):
        roles.categorical.append(name)
        return
    element = f'{{ name = "{_field_name(name)}_1", column = "{name}[0]" }}'
    roles.notes[name] = f"a list: name its elements, such as {element}"
    lengths = {other: len(values) for other, values in sample.lists.items() if other != name}
    values = next((other for other, length in lengths.items() if texts and length == len(sample.lists[name])), None)
    if values is not None:
        roles.notes[name] += (
            f"; or, as they are as many as those of {_quoted(values)}, their weights: "
            f'{{ name = "{_field_name(values)}", list = true, weights = {_quoted(name)} }}'
        )


def _warn_of_positions(roles: _Roles, sample: Sample) -> None:
    """Notes where the rows of a libsvm log have different numbers of pairs."""
    pairs = [texts for name, texts in sample.columns.items() if name not in sample.leading]
    fewest = sum(all(texts) for texts in pairs)
    if sample.format == "libsvm" and fewest < len(pairs):
        roles.notes[f"f{fewest + 1}"] = (
            f"rows have {fewest} to {len(pairs)} pairs, and a field is the pair at a position: if a row leaves one "
            "out, those behind it are values of the wrong fields; write such a log as ffm; if the pairs are a set, "
            'such as the words of a text, one field has them all: categorical = [{ name = "words", list = true }]'
        )
    if sample.has_pair_values:
        roles.notes["pairs"] = (
            "have other values than 1; name those that are numbers, such as a price, in dense; weights = true in a "
            "field multiplies its vectors by them"
        )


def _choose_label(roles: _Roles, present: Mapping[str, Sequence[str]], *, is_named: bool) -> None:
    names = [name for name in present if _LABELS.fullmatch(name.rpartition(".")[2].strip(_AROUND_NAMES))]
    first = next(iter(present), None)
    is_guess = not names and first is not None and (not is_named or re.fullmatch(r"c\d+", first) is not None)
    if is_guess and first is not None:
        names = [first]
    for name in names:
        rule = _rule_of(present[name])
        if is_guess and rule is not None and rule.above is not None and not any(map(_is_zero, present[name])):
            continue  # numbers over 0, of which nothing says that they are counts: times, ids
        if rule is not None:
            roles.label, roles.rule = name, rule
            return


def _is_zero(text: str) -> bool:
    return parse_number(text.encode()) == 0


def _rule_of(texts: Sequence[str]) -> LabelRule | None:
    """The rule by which the texts, but for a few malformed ones, are labels; None if there is none."""
    counts = Counter(texts)
    words = LabelRule(
        positive=tuple(sorted(text for text in counts if text.lower() in _YES)),
        negative=tuple(sorted(text for text in counts if text.lower() in _NO)),
    )
    rules = (LabelRule(), LabelRule(negative=("-1",)), LabelRule(above=0), words)
    bad = {rule: sum(count for text, count in counts.items() if rule.parse(text) is None) for rule in rules}
    best = min(rules, key=bad.__getitem__)
    return best if bad[best] < _MOST_BAD * len(texts) else None


def _choose_time(roles: _Roles, sample: Sample, present: Mapping[str, Sequence[str]]) -> None:
    if sample.times:
        roles.time = sample.times[0]
        return
    for name in present:
        is_guess = not sample.has_header and sample.format == "delimited"
        if name == roles.label or not (is_guess or _TIMES.fullmatch(name)):
            continue
        found = _time_format_of(present[name])
        if found is not None and not (is_guess and _is_disordered(present[name], found)):
            roles.time, roles.time_format = name, found
            return


def _is_disordered(texts: Sequence[str], time_format: str) -> bool:
    """Whether times do not rise from line to line, or are all the same: then nothing says that they are times."""
    times = [time_ms for text in texts if (time_ms := parse_time_ms(text, time_format)) is not None]
    return times != sorted(times) or times[0] == times[-1]


def _time_format_of(texts: Sequence[str]) -> str | None:
    """The first format by which the texts, but for a few malformed ones, are times; None if there is none."""
    counts = Counter(time_format for text in texts for time_format in fitting_formats(text))
    best, count = max(counts.items(), key=itemgetter(1), default=("", 0))
    return best if count > (1 - _MOST_BAD) * len(texts) else None


def _choose_role(roles: _Roles, name: str, texts: Sequence[str], num_rows: int) -> None:
    numbers = [parse_number(text.encode()) for text in texts if text not in _MISSING]
    are_numbers = bool(numbers) and all(number is not None for number in numbers)
    if roles.weight is None and are_numbers and _WEIGHTS.fullmatch(name):
        roles.weight = name
    elif are_numbers and (_NUMBERS.fullmatch(name) or any(number != int(number or 0) for number in numbers)):
        roles.dense.append(name)
    elif len(set(texts)) == num_rows >= _MANY_ROWS:
        roles.notes[name] = "has another value in every row of the sample; if it does not name the row, add it"
    else:
        roles.categorical.append(name)
        if odd := next((text for text in texts if number_remedy(text)), None):
            roles.notes[name] = f"has {odd!r}{number_remedy(odd)}, and add it to dense, if it holds numbers"


def _write(roles: _Roles, sample: Sample, present: Mapping[str, Sequence[str]]) -> list[str]:
    lines = ["# Written by `hotstream schema infer`: read it over; docs/schema.md describes every key.", "[log]"]
    if roles.label is None:
        lines.append('# no label was found: without one the rows can be counted, not trained; label = "COLUMN"')
        flags = [_quoted(name) for name in roles.categorical if set(present[name]) == {"0", "1"}]
        if flags:
            lines.append(f"# only 0 and 1: {', '.join(flags)}; if one is the label, delete it from categorical")
    else:
        lines += [f"label = {_quoted(roles.label)}", *_write_rule(roles.rule or LabelRule())]
    if roles.weight is not None:
        lines.append(f"weight = {_quoted(roles.weight)}")
    if roles.dense:
        lines.append(f"dense = [{', '.join(map(_quoted, roles.dense))}]")
    lines += ["categorical = [", *(f"    {_entry(name, present[name], sample)}," for name in roles.categorical), "]"]
    if len(roles.categorical) > _MAX_FIELDS:
        lines.insert(2, f"# {len(roles.categorical)} categorical columns, but at most {_MAX_FIELDS}: delete some")
    lines += [f"# {_quoted(name)}: {reason}" for name, reason in roles.notes.items()]
    missing = [word for word in _MISSING if any(word in present[name] for name in roles.categorical)]
    if missing:
        lines.append(f"missing = [{', '.join(map(_quoted, missing))}]")
    if roles.time is not None:
        lines.append(f"time = {_quoted(roles.time)}")
    if roles.time_format is not None:
        lines.append(f"time_format = {_quoted(roles.time_format)}")
    return [*lines, *_write_format(roles, sample)]


def _write_rule(rule: LabelRule) -> list[str]:
    if rule.above is not None:
        return ["label_above = 0  # it holds counts"]
    listed = {"label_positive": rule.positive, "label_negative": rule.negative}
    return [f"{name} = {json.dumps(list(texts))}" for name, texts in listed.items() if texts]


def _write_format(roles: _Roles, sample: Sample) -> list[str]:
    if sample.format in ("parquet", "json"):
        return []
    if sample.format in ("libsvm", "ffm"):
        columns = [] if sample.leading == (roles.label,) else [f"columns = {json.dumps(sample.leading)}"]
        return [f'format = "{sample.format}"', *columns]
    lines = [] if sample.delimiter == "," else [f"delimiter = {_quoted(sample.delimiter)}"]
    if not sample.is_quoted:
        lines.append("quote = false")
    if not sample.has_header:
        lines += ["header = false", f"columns = {json.dumps(list(sample.columns))}"]
    return lines


def _entry(name: str, texts: Sequence[str], sample: Sample) -> str:
    """An entry of `categorical`."""
    values = [text for text in texts if text not in _MISSING]
    is_hex = bool(values) and all(map(_HEX.fullmatch, values)) and not all(text.isdecimal() for text in values)
    field_name = _field_name(f"f{name}" if sample.format == "ffm" else name)
    column = "" if field_name == name or sample.format == "libsvm" else f", column = {_quoted(name)}"
    kind = ', kind = "hex32"' if is_hex else ""
    options = f"{kind}{column}{', list = true' if name in sample.lists else ''}"
    return f"{{ name = {_quoted(field_name)}{options} }}" if options else _quoted(field_name)


def _field_name(column: str) -> str:
    return column if _NAME.fullmatch(column) else re.sub(r"[^A-Za-z0-9_.-]", "_", column)[:64] or "_"


def _quoted(text: str) -> str:
    return json.dumps(text)
