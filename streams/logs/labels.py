"""Labels of logs: which cells mean a click, and which mean none."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streams.errors import ConfigError
from streams.logs.texts import number_remedy

__all__ = ["LabelRule"]

_WORDS = {"true": 1, "false": 0}
_USUAL = "0 or 1"


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """Maps the cells of a label column to 0 and 1.

    Without arguments it maps the numbers 0 and 1 (`1.0`, too) and the words true and false. A text that is listed comes
    before that rule; with `above`, every other number is a count, a rating or a price.

    Args:
        positive: texts that mean 1.
        negative: texts that mean 0.
        above: the number over which a number means 1; every other number means 0.

    Raises:
        ConfigError: a text is listed as both, or `above` is not a finite number.
    """

    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    above: float | None = None

    def __post_init__(self) -> None:
        both = set(self.positive) & set(self.negative)
        if both:
            raise ConfigError(f"label_positive and label_negative: both list {min(both)!r}, expected it once")
        if self.above is not None and not math.isfinite(self.above):
            raise ConfigError(f"label_above: got {self.above}, expected a finite number")

    @property
    def is_plain(self) -> bool:
        """Whether the cells `0` and `1` mean 0 and 1."""
        return self.parse("0") == 0 and self.parse("1") == 1

    def parse(self, cell: str) -> int | None:
        """0 or 1; None if the cell is no label."""
        if cell in self.positive or cell in self.negative:
            return int(cell in self.positive)
        word = _WORDS.get(cell.lower())
        if word is not None:
            return word
        try:
            number = math.nan if "_" in cell or cell != cell.strip() else float(cell)
        except ValueError:
            return None
        if self.above is not None:
            return None if math.isnan(number) else int(number > self.above)
        return int(number) if number in (0.0, 1.0) else None

    def expected(self, cell: str) -> str:
        """What a cell that is no label should be, with the remedy."""
        listed = [repr(text) for text in (*self.positive, *self.negative)]
        if self.above is not None:
            return " or ".join(["a number", *listed]) + number_remedy(cell)
        usual = ", ".join([*listed, _USUAL])
        if cell in ("-1", "-1.0"):
            return f'{usual}; write label_negative = ["{cell}"] in the schema if it means no click'
        if cell.lstrip("+").isdecimal():
            return f"{usual}; write label_above = 0 in the schema if it is a count"
        return f"{usual}; label_positive, label_negative or label_above in the schema map other labels"
