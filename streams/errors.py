"""The errors of `streams`.

    StreamsError
    |-- ConfigError       (ValueError)     an option, schema or file that cannot be meant
    |-- BrokerError       (RuntimeError)   a broker that cannot be started or reached
    |-- TopicError        (RuntimeError)   a topic that is missing or does not fit
    |-- InputError        (OSError)        a log file that cannot be read
    |-- ChildError        (RuntimeError)   a process that we started and that failed
    `-- InvariantError    (AssertionError) a broken promise of our own: never caught, the process ends

A bad *record* is none of these: it is a value (`records.BadRecord`), counted and dead-lettered.
Every message says what was wrong, what was got, what was expected, and what to do.
"""

from __future__ import annotations

__all__ = ["BrokerError", "ChildError", "ConfigError", "InputError", "InvariantError", "StreamsError", "TopicError"]


class StreamsError(Exception):
    """The root of every error that `streams` raises on purpose."""


class ConfigError(StreamsError, ValueError):
    """An option, a schema or a configuration file that cannot be meant."""


class BrokerError(StreamsError, RuntimeError):
    """A broker that cannot be started or reached."""


class TopicError(StreamsError, RuntimeError):
    """A topic that is missing or does not fit its specification."""


class InputError(StreamsError, OSError):
    """A log file that cannot be read."""


class ChildError(StreamsError, RuntimeError):
    """A process that we started and that failed."""


class InvariantError(StreamsError, AssertionError):
    """A broken promise of our own; the process ends rather than write a wrong record."""
