"""What a broker's refusal means, in words that name the right that this user lacks."""

from __future__ import annotations

from typing import Literal

__all__ = ["explain_refusal", "is_forbidden"]

_TOPIC, _GROUP = "TopicAuthorizationFailedError", "GroupAuthorizationFailedError"


def is_forbidden(error: BaseException) -> bool:
    """Whether a broker refused because this user lacks a right."""
    return type(error).__name__ in {_TOPIC, _GROUP}


def explain_refusal(error: BaseException, operation: Literal["READ", "WRITE"], topic: str = "") -> str:
    """Why a broker refused: the right that lacks, or the error itself.

    Args:
        error: of either client library, whose classes have the same names.
        operation: what was tried.
        topic: the topic, for an error that names none.
    """
    kind = type(error).__name__
    if kind == _TOPIC:
        lacking = f"{operation} on topic {_named(error) or topic}"
    elif kind == _GROUP:
        lacking = f"READ on group {_named(error)}"
    else:
        return str(error) or kind
    return f"this user lacks {lacking}; have it allowed (docs/security.md)"


def _named(error: BaseException) -> str:
    """The topics or the group that an error has as its argument; empty if it has none."""
    argument = error.args[0] if error.args else ""
    return ", ".join(sorted(map(str, argument))) if isinstance(argument, set | frozenset) else str(argument)
