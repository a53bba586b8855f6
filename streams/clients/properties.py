"""Reads a Kafka `client.properties` file as Java reads it, and hides the secrets of its properties.

No error shows a value: a line that is not what it should be may hold a password. A name is shown only if it is formed
like a name of Kafka's, lower-case letters and dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from streams.errors import ConfigError

__all__ = ["load_properties", "redact", "refuse_unknown"]

_SECRET = re.compile(r"password|secret|jaas|token|credential|\.key$", re.IGNORECASE)
_NAME = re.compile(r"[a-z]+(\.[a-z]+)*")
# `name = value`, `name: value` or `name value`; a backslash protects the next character of a name.
_LINE = re.compile(r"((?:\\.|[^\\=:\s])+)(?:[ \t\f]*[=:]|[ \t\f]+)(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u([0-9a-fA-F]{4})|.)", re.DOTALL)
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def load_properties(path: Path) -> dict[str, str]:
    r"""The properties of a file in the syntax of `java.util.Properties`; the last of two equal names counts.

    That is `name=value`, `name: value` or `name value` a line; `#` or `!` begins a comment; a backslash at the end of a
    line continues it; `\t`, `\n`, `\r`, `\f`, `\\` and `\u00e4` are escapes. Values lose blanks at their ends, as in
    Kafka's clients.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8, or has a malformed line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read ({error.strerror}); expected a readable file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--config {path}: got bytes that are not UTF-8 at {error.start}; name a text file, and write other "
            r"characters as \u00e4"
        ) from None
    properties = {}
    for number, line in _logical_lines(text):
        found = _LINE.fullmatch(line)
        if found is None:
            raise ConfigError(f"--config {path}, line {number}: got no name and value, expected name=value")
        try:
            properties[_unescape(found[1])] = _unescape(found[2]).strip()
        except ValueError:
            raise ConfigError(
                rf"--config {path}, line {number}: got \u without four hexadecimal digits, expected \u00e4 or \\u"
            ) from None
    return properties


def redact(properties: Mapping[str, str]) -> dict[str, str]:
    """The properties, with `***` in place of every secret, for printing."""
    return {name: "***" if _SECRET.search(name) else value for name, value in properties.items()}


def refuse_unknown(properties: Mapping[str, str], known: set[str]) -> None:
    """Checks that all names are known.

    Raises:
        ConfigError: a name is unknown.
    """
    unknown = set(properties) - known
    if unknown:
        name = min(unknown)
        got = repr(name) if _NAME.fullmatch(name) else "a name that is none of Kafka's"
        raise ConfigError(f"client property: got {got}, expected one of {', '.join(sorted(known))}")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and lines, continued ones joined, without comments and empty lines."""
    joined, first = "", 0
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        content = line.lstrip(" \t\f")
        if not first and content[:1] in {"", "#", "!"}:
            continue
        first, joined = first or number, joined + content
        if (len(content) - len(content.rstrip("\\"))) % 2:
            joined = joined[:-1]
            continue
        yield first, joined
        joined, first = "", 0
    if joined:
        yield first, joined


def _unescape(text: str) -> str:
    """The text without its escapes.

    Raises:
        ValueError: a backslash and `u` without four hexadecimal digits.
    """

    def replace(found: re.Match[str]) -> str:
        if found[2]:
            return chr(int(found[2], 16))
        if found[1] == "u":
            raise ValueError
        return _CONTROLS.get(found[1], found[1])

    return _ESCAPE.sub(replace, text)
