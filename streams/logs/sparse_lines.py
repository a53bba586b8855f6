"""Reads libsvm and ffm lines: the columns before the pairs (by default the label), then pairs.

libsvm, `1 3:1 17:1 99:0.5`: pairs index:value. A dense column is named by its index and has the pair's value, 0 if it
is absent; the k-th of the other pairs is the k-th categorical column. If the last of these is a list, it has all pairs
from its own on.

ffm, `1 0:3:1 1:17:1 2:99:0.5`: triples field:feature:value. A column is named by its field; a categorical one has the
feature, a dense one the value, 0 if it is absent.

The weight of a categorical value, if the schema names weights, is the value of its pair.
"""

from __future__ import annotations

from collections.abc import Sequence

from streams.logs.log_rows import BadRow
from streams.logs.schema import LogSchema

__all__ = ["SparseReader"]

_ABSENT = b"0"
Texts = dict[str, bytes | list[bytes | None] | None]


class SparseReader:
    """Reads lines of a schema whose format is `libsvm` or `ffm`."""

    def __init__(self, schema: LogSchema) -> None:
        self._is_ffm = schema.format == "ffm"
        label = () if schema.label is None else (schema.label,)
        self._leading = schema.columns or label or ("label",)
        self._categorical = [name for name in schema.field_columns if name not in self._leading]
        self._dense = {name.encode(): name for name in schema.dense if name not in self._leading}
        self._lists = schema.list_columns
        self._last_list = len(self._categorical) - 1 if self._lists & {*self._categorical[-1:]} else -1  # has the rest
        weights = {schema.field_columns[index]: column for index, column in schema.weight_columns.items()}
        self._weights = {name: weights[name] for name in self._categorical if name in weights}
        self._by_field = {name.encode(): name for name in self._categorical}
        self._absent: Texts = {
            **dict.fromkeys(schema.used_columns),
            **dict.fromkeys(self._dense.values(), _ABSENT),
        }

    def read(self, line: bytes) -> Texts | BadRow:
        """The texts of a line's columns, None where a value is missing."""
        cells = line.partition(b"#")[0].split()
        num_leading = len(self._leading)
        if len(cells) < num_leading or any(b":" in cell for cell in cells[:num_leading]):
            return BadRow("Columns", "", f"got {_shown(line)}, expected {', '.join(self._leading)}, then pairs")
        texts = dict(self._absent)
        texts.update(zip(self._leading, cells, strict=False))
        pairs = cells[num_leading:]
        problem = self._read_triples(pairs, texts) if self._is_ffm else self._read_pairs(pairs, texts)
        return texts if problem is None else problem

    def _read_pairs(self, pairs: Sequence[bytes], texts: Texts) -> BadRow | None:
        position = 0
        for pair in pairs:
            index, colon, value = pair.partition(b":")
            if not colon or not index.isdigit() or not value:
                return BadRow("Text", "", f"got {_shown(pair)}, expected a pair index:value")
            if index in self._dense:
                texts[self._dense[index]] = value
                continue
            if position < len(self._categorical):
                self._add(texts, self._categorical[position], index, value)
            position += position != self._last_list
        if position > len(self._categorical):
            return BadRow(
                "Columns",
                "",
                f"{position} pairs, expected at most {len(self._categorical)}: one for each categorical column; name "
                "more of them",
            )
        return None

    def _read_triples(self, triples: Sequence[bytes], texts: Texts) -> BadRow | None:
        for triple in triples:
            field, _, rest = triple.partition(b":")
            feature, colon, value = rest.partition(b":")
            if not colon or not field or not feature or not value:
                return BadRow("Text", "", f"got {_shown(triple)}, expected a triple field:feature:value")
            if field in self._dense:
                texts[self._dense[field]] = value
            elif field in self._by_field:
                name = self._by_field[field]
                if name not in self._lists and texts[name] is not None:
                    reason = f"column {name!r}: got several features, expected one; read them all with list = true"
                    return BadRow("Values", name, reason)
                self._add(texts, name, feature, value)
        return None

    def _add(self, texts: Texts, name: str, feature: bytes, value: bytes) -> None:
        """Adds a value to a column, and its weight to that of the weights, if there is one."""
        columns = [(name, feature)]
        if name in self._weights:
            columns.append((self._weights[name], value))
        for column, text in columns:
            before = texts[column]
            if column not in self._lists:
                texts[column] = text
            elif isinstance(before, list):
                before.append(text)
            else:
                texts[column] = [text]


def _shown(text: bytes) -> str:
    return repr(text[:60].decode("utf-8", "replace"))
