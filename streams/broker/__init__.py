"""Brokers as child processes: `embedded` (in memory, starts in half a second) and `apache` (Apache Kafka, on disk).

`open_broker` gives the address of a broker; `run_broker` gives its process, which can be stopped and killed.
"""

from __future__ import annotations

from streams.broker.opening import ENGINES, open_broker, run_broker
from streams.broker.process import BrokerCommand, BrokerProcess

__all__ = ["ENGINES", "BrokerCommand", "BrokerProcess", "open_broker", "run_broker"]
