"""`hotstream top` for pipes: a line at each interval."""

from __future__ import annotations

import time
from collections.abc import Callable

from streams.top.model import TopModel
from streams.top.words import describe_agents, describe_hot_set, describe_trainer

__all__ = ["print_lines"]

_STOP_S = 0.1


def print_lines(
    model: TopModel, write: Callable[[str], None], *, interval_s: float, should_stop: Callable[[], bool]
) -> None:
    """Writes a line every `interval_s` seconds until `should_stop`.

    Raises:
        BrokerError: the broker refuses.
        TopicError: the topic is no longer the one that was opened.
    """
    while not should_stop():
        due_s = time.monotonic() + interval_s
        model.look_to_end(due_s)
        if not model.is_current:  # a part of the hot set would look like all of it
            continue
        view = model.view(most=0)
        moment = time.strftime("%H:%M:%S")
        write(f"{moment}  {describe_hot_set(view)} | {describe_agents(view)} | {describe_trainer(view)}")
        while not should_stop() and (rest_s := due_s - time.monotonic()) > 0:
            time.sleep(min(rest_s, _STOP_S))
