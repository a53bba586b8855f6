"""The commands of `streams`, one module each; a module is imported only when its command is called."""

from __future__ import annotations

__all__ = ["COMMANDS"]

# name -> (module that has the click command as `command`, one line for `hotstream --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("streams.commands.generate", "Write Criteo-like click logs of any size."),
    "broker": ("streams.commands.broker", "Run a broker in the foreground, embedded or Apache Kafka."),
    "topics": ("streams.commands.topics", "Create or describe hotstream's topics."),
    "schema": ("streams.commands.schema", "Write and try the schema of a click log."),
    "replay": ("streams.commands.replay", "Send click logs to the clicks topic; can be resumed."),
    "agent": ("streams.commands.agent", "Run a sketch agent: reads importance, publishes assignments."),
    "watch": ("streams.commands.watch", "Print the changes of the hot set as they are published."),
    "top": ("streams.commands.top", "Show the hot set, agents and trainer live in the terminal."),
    "dashboard": ("streams.commands.dashboard", "Serve a page of the hot set, agents, trainer and history."),
    "values": ("streams.commands.values", "Publish which values the hot hashed features are."),
    "compare": ("streams.commands.compare", "Compare the hot set with that of a shadow."),
    "dlq": ("streams.commands.dlq", "Show or replay dead-lettered records."),
}
