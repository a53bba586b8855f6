"""Event times of logs: a unit since 1970, or a strptime format, in UTC.

A time after 2099 is refused: nearly always its unit is a smaller one than the schema names.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt

from streams.errors import ConfigError
from streams.escapes import escape

__all__ = ["MAX_LOG_TIME_MS", "UNITS", "check_time_format", "describe_bad_time", "numbers_to_ms", "parse_time_ms"]

UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}  # ns of each
MAX_LOG_TIME_MS = 4_102_444_799_999  # the last millisecond of 2099
_NS_PER_MS = 1_000_000
_SOME_TIME = datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
_NUMBER = re.compile(r"([0-9]{1,20})(?:\.([0-9]{0,20}))?")  # Python's int accepts underscores and spaces


def check_time_format(time_format: str, where: str) -> None:
    """Refuses a format that is neither a unit nor a strptime format that reads what it writes.

    Raises:
        ConfigError: the message begins with `where`.
    """
    if time_format in UNITS:
        return
    if "%" not in time_format:
        raise ConfigError(
            f"{where}: time_format {escape(time_format)!r}, expected 's', 'ms', 'us', 'ns' or a strptime format like "
            "'%y%m%d%H'"
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
    time_ms = _strptime_ms(cell, time_format) if unit_ns is None else _number_ms(cell, unit_ns)
    return time_ms if time_ms is not None and 0 <= time_ms <= MAX_LOG_TIME_MS else None


def _number_ms(cell: str, unit_ns: int) -> int | None:
    match = _NUMBER.fullmatch(cell)
    if match is None:
        return None
    fraction = match[2] or ""
    return (int(match[1]) * unit_ns + int(fraction or 0) * unit_ns // 10 ** len(fraction)) // _NS_PER_MS


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
    """What was expected instead of a cell that is no time, with the remedy if another unit would fit."""
    number = _NUMBER.fullmatch(cell)
    if time_format in UNITS and number is not None:
        fitting = next((unit for unit, ns in UNITS.items() if _is_recent(int(number[1]) * ns)), None)
        if fitting is not None and fitting != time_format:
            return f'a time before 2100 in {time_format}; write time_format = "{fitting}" in the schema'
    return f"a time of format {time_format!r} from 1970 to 2099"


def _is_recent(time_ns: int) -> bool:
    return 946_684_800_000 <= time_ns // _NS_PER_MS <= MAX_LOG_TIME_MS  # from the year 2000 on
