"""Event times of logs: a unit since 1970, ISO 8601, or a strptime format, in UTC where no offset is given.

A time after 2099 is refused: nearly always its unit is a smaller one than the schema names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import numpy as np
import numpy.typing as npt

from streams.errors import ConfigError
from streams.escapes import escape

__all__ = [
    "MAX_LOG_TIME_MS",
    "UNITS",
    "check_time_format",
    "describe_bad_time",
    "fitting_formats",
    "numbers_to_ms",
    "parse_time_ms",
]

UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}  # ns of each
MAX_LOG_TIME_MS = 4_102_444_799_999  # the last millisecond of 2099
_NS_PER_MS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SOME_TIME = datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
_YEAR_2000_MS = 946_684_800_000
_NUMBER = re.compile(r"([0-9]{1,20})(?:\.([0-9]{0,20}))?")  # Python's int accepts underscores and spaces
_ISO = "iso"
_ISO_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"(?: ?(?:(Z|UTC)|([+-])([0-9]{2}):?([0-9]{2})?))?)?"
)
# Tried in this order: 2013060600 would be a time of 2033 in s.
_KNOWN_FORMATS = (
    *("%Y%m%d%H", "%Y%m%d", "%Y%m%d%H%M%S", "%Y%m%d%H%M%S%f", *UNITS, "%y%m%d%H", _ISO),
    *("%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%m/%d/%Y %H:%M:%S", "%d/%b/%Y:%H:%M:%S %z"),
)


def check_time_format(time_format: str, where: str) -> None:
    """Refuses a format that is neither a unit, nor `iso`, nor a strptime format that reads what it writes.

    Raises:
        ConfigError: the message begins with `where`.
    """
    if time_format in UNITS or time_format == _ISO:
        return
    if "%" not in time_format:
        raise ConfigError(
            f"{where}: time_format {escape(time_format)!r}, expected 's', 'ms', 'us', 'ns', 'iso' or a strptime "
            "format like '%y%m%d%H'"
        )
    try:
        datetime.strptime(_SOME_TIME.strftime(time_format), time_format).replace(tzinfo=timezone.utc)
    except (ValueError, re.error) as error:
        raise ConfigError(
            f"{where}: time_format {escape(time_format)!r} ({error}), expected a strptime format"
        ) from error


def parse_time_ms(cell: str, time_format: str) -> int | None:
    """Milliseconds since 1970; None if the cell is no time of this format from 1970 to 2099."""
    unit_ns = UNITS.get(time_format)
    if unit_ns is not None:
        time_ms = _number_ms(cell, unit_ns)
    else:
        time_ms = _iso_ms(cell) if time_format == _ISO else _strptime_ms(cell, time_format)
    return time_ms if time_ms is not None and 0 <= time_ms <= MAX_LOG_TIME_MS else None


def _number_ms(cell: str, unit_ns: int) -> int | None:
    match = _NUMBER.fullmatch(cell)
    if match is None:
        return None
    fraction = match[2] or ""
    return (int(match[1]) * unit_ns + int(fraction or 0) * unit_ns // 10 ** len(fraction)) // _NS_PER_MS


def _iso_ms(cell: str) -> int | None:
    """The time of an ISO 8601 date, with or without a time of day, seconds, a fraction of them, and an offset."""
    match = _ISO_TIME.fullmatch(cell)
    if match is None:
        return None
    *parts, fraction, _, sign, hours, minutes = match.groups()
    year, month, day, hour, minute, second = (int(part or 0) for part in parts)
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError:
        return None
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    whole_ms = 1000 * int((moment - _EPOCH - (-offset if sign == "-" else offset)).total_seconds())
    return whole_ms + int((fraction or "0").ljust(3, "0")[:3])


def _strptime_ms(cell: str, time_format: str) -> int | None:
    try:
        parsed = datetime.strptime(cell, time_format)
        return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def numbers_to_ms(numbers: npt.NDArray[np.float64] | npt.NDArray[np.int64], time_format: str) -> npt.NDArray[np.int64]:
    """(B,) milliseconds since 1970 of numbers of a unit; -1 for those that are no time from 1970 to 2099."""
    unit_ns = UNITS[time_format]
    most = MAX_LOG_TIME_MS * _NS_PER_MS // unit_ns
    is_time = (numbers >= 0) & (numbers <= most)  # false for NaN, too
    kept = np.where(is_time, numbers, 0)
    if unit_ns > _NS_PER_MS:
        return np.where(is_time, np.floor(kept * (unit_ns // _NS_PER_MS)), -1).astype(np.int64)
    return np.where(is_time, kept // (_NS_PER_MS // unit_ns), -1).astype(np.int64)


def describe_bad_time(cell: str, time_format: str) -> str:
    """What was expected instead of a cell that is no time, with the remedy if another format would fit."""
    is_number = time_format in UNITS and _NUMBER.fullmatch(cell) is not None
    expected = f"a time before 2100 in {time_format}" if is_number else f"a time of format {time_format!r}"
    for fitting in fitting_formats(cell):
        if fitting != time_format:
            return f'{expected}; write time_format = "{fitting}" in the schema'
    return f"a time of format {time_format!r} from 1970 to 2099"


def fitting_formats(cell: str) -> Iterator[str]:
    """The usual formats by which a cell is a time from 2000 to 2099, the likeliest first."""
    for time_format in _KNOWN_FORMATS:
        time_ms = parse_time_ms(cell, time_format)
        if time_ms is not None and time_ms >= _YEAR_2000_MS:
            yield time_format
