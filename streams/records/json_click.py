"""A single click as a JSON object."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from streams.keys import Field, make_key
from streams.records.click_batch import ClickBatch
from streams.records.headers import check_time
from streams.records.more_values import MoreValues

__all__ = ["click_from_json"]

_MAX_FLOAT32 = float(np.finfo(np.float32).max)


def click_from_json(value: bytes, fields: tuple[Field, ...], dense_names: tuple[str, ...]) -> ClickBatch:
    """One row from `{"label":1,"dense":{"I1":2.0},"features":{"C1":"68fd1e64"},"event_time_ms":1700000000000}`.

    Raises:
        ValueError: the click breaks a rule; the message names the member.
    """
    if len(value) > 1 << 16:
        raise ValueError(f"{len(value)} bytes, expected a single click of at most 65536")
    click = json.loads(value)
    if not isinstance(click, dict) or click.get("label") not in (0, 1, None):
        raise ValueError('expected an object with "label": 0 or 1, or without a label')
    label, weight = click.get("label"), click.get("weight")
    if weight is not None and not (isinstance(weight, int | float) and 0 <= weight <= _MAX_FLOAT32):
        raise ValueError(f'"weight": got {str(weight)[:100]}, expected a finite number, 0 or more')
    dense, features = click.get("dense", {}), click.get("features")
    if not isinstance(dense, dict) or not isinstance(features, dict):
        raise ValueError('expected objects "dense" and "features" of name: value')
    unknown = (set(dense) - set(dense_names)) | (set(features) - {field.name for field in fields})
    if unknown:
        raise ValueError(f"column {min(unknown)!r} is not in the schema")
    event_time_ms = click.get("event_time_ms")
    if type(event_time_ms) is not int:
        raise ValueError('expected an integer "event_time_ms"')
    check_time(event_time_ms, '"event_time_ms"')
    numbers = [dense.get(name) for name in dense_names]
    if not all(
        number is None or (isinstance(number, int | float) and not abs(number) > _MAX_FLOAT32) for number in numbers
    ):
        raise ValueError('"dense": expected numbers of float32 or null')
    found = [_keys_from_json(n, field, features.get(field.name)) for n, field in enumerate(fields, 1)]
    weights = _weights_from_json(click.get("value_weights"), fields, features)
    more = [key for keys in found for key in keys[1:]]
    more_weights = None if weights is None else np.array([one for listed in weights for one in listed[1:]], np.float32)
    return ClickBatch(
        label=None if label is None else np.array([label], np.int8),
        dense=np.array([[np.nan if x is None else x for x in numbers]], np.float32).reshape(1, len(numbers)),
        keys=np.array([[keys[0] for keys in found]], np.uint64),
        event_time_ms=np.array([event_time_ms], np.int64),
        fields=fields,
        dense_names=dense_names,
        weight=None if weight is None else np.array([weight], np.float32),
        more=MoreValues(offsets=np.array([0, len(more)]), keys=np.array(more, np.uint64), weights=more_weights)
        if more
        else None,
        key_weights=None if weights is None else np.array([[listed[0] for listed in weights]], np.float32),
    )


def _keys_from_json(number: int, field: Field, value: Any) -> list[int]:
    """The keys of a field's value or list of values, at least one; nulls and empty strings of a list are left out.

    Raises:
        ValueError: a value is not a string, or not one of the field's kind.
    """
    values = value if isinstance(value, list) else [value]
    if not all(one is None or isinstance(one, str) for one in values):
        raise ValueError('"features": expected strings, lists of strings, or null')
    return [make_key(number, field.kind, token) for token in values if token] or [make_key(number, field.kind, "")]


def _weights_from_json(named: Any, fields: tuple[Field, ...], features: dict[str, Any]) -> list[list[float]] | None:
    """For each field the weights of its keys, as `_keys_from_json` has them; None if the click has none.

    Raises:
        ValueError: they are no numbers, not as many as the values, or of a field that the click lacks.
    """
    if named is None:
        return None
    if not isinstance(named, dict) or not named.keys() <= features.keys():
        raise ValueError('"value_weights": expected an object of numbers or lists of them, by names of "features"')
    found = []
    for field in fields:
        values, weights = features.get(field.name), named.get(field.name)
        listed = values if isinstance(values, list) else [values]
        given = [1.0] * len(listed) if weights is None else weights if isinstance(weights, list) else [weights]
        if len(given) != len(listed) or not all(_is_float32(one) for one in given):
            raise ValueError(f'"value_weights", {field.name!r}: expected {len(listed)} numbers, one for each value')
        found.append([float(one) for one, token in zip(given, listed, strict=True) if token] or [1.0])
    return found


def _is_float32(number: Any) -> bool:
    """Whether a value of JSON is a number that a float32 can hold; NaN and Infinity, which Python reads, are not."""
    return type(number) in (int, float) and -_MAX_FLOAT32 <= number <= _MAX_FLOAT32
