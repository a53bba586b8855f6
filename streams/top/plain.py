"""`hotstream top` for pipes: a line at each interval."""

from __future__ import annotations

import time
from collections.abc import Callable

from streams.top.model import TopModel
from streams.top.words import describe_agents, describe_hot_set, describe_trainer

__all__ = ["print_lines"]


def print_lines(
    model: TopModel, write: Callable[[str], None], *, interval_s: float, should_stop: Callable[[], bool]
) -> None:
    """Writes a line every `interval_s` seconds until `should_stop`.

    Raises:
        BrokerError: the broker refuses.
        TopicError: the topic is no longer the one that was opened.
    """
    due_s = time.monotonic()
    while not should_stop():
        model.look()
        if time.monotonic() >= due_s:
            view = model.view(most=0)
            moment = time.strftime("%H:%M:%S")
            write(f"{moment}  {describe_hot_set(view)} | {describe_agents(view)} | {describe_trainer(view)}")
            due_s = max(due_s + interval_s, time.monotonic())
