"""The errors of `streams`.

    StreamsError
    |-- ConfigError       (ValueError)     an invalid option, schema or configuration file
    |-- BrokerError       (RuntimeError)   a broker that cannot be started or reached
    |-- TopicError        (RuntimeError)   a topic that is missing or has other settings than required
    |-- FencedError       (RuntimeError)   another process has taken over what this one was writing
    |-- InputError        (OSError)        a log file that cannot be read
    |-- ChildError        (RuntimeError)   a child process that failed
    `-- InvariantError    (AssertionError) a broken invariant of hotstream: never caught, the process ends

A bad *record* raises none of these: it is a value (`records.BadRecord`) that is counted and dead-lettered.
Every message names the object, the value found, the value expected, and the remedy.
"""

from __future__ import annotations

__all__ = [
    "BrokerError",
    "ChildError",
    "ConfigError",
    "FencedError",
    "InputError",
    "InvariantError",
    "StreamsError",
    "TopicError",
]


class StreamsError(Exception):
    """The base class of every error that `streams` raises."""


class ConfigError(StreamsError, ValueError):
    """An invalid option, schema or configuration file."""


class BrokerError(StreamsError, RuntimeError):
    """A broker that cannot be started or reached."""


class TopicError(StreamsError, RuntimeError):
    """A topic that is missing or does not match its specification."""


class FencedError(StreamsError, RuntimeError):
    """Another process has taken over what this one was writing."""


class InputError(StreamsError, OSError):
    """A log file that cannot be read."""


class ChildError(StreamsError, RuntimeError):
    """A child process that failed."""


class InvariantError(StreamsError, AssertionError):
    """A broken invariant of hotstream; the process ends before it can write a wrong record."""
