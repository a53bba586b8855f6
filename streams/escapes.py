"""Makes text from a topic or a file safe to show: on one line, without terminal escapes, of bounded length."""

from __future__ import annotations

__all__ = ["escape"]

_MAX_CHARACTERS = 500


def escape(text: str, max_characters: int = _MAX_CHARACTERS) -> str:
    r"""The text, cut, with `\n`, `\x1b` and the like instead of every character that is not printable.

    >>> escape("a\x1b[31mred\n")
    'a\\x1b[31mred\\n'
    """
    if len(text) > max_characters:
        text = text[: max_characters - 3] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
