"""Brokers that we start ourselves: `embedded` (in memory, half a second) and `apache` (the real thing, on disk).

`open_broker` is for whoever needs just an address; `run_broker` also hands out the process, to stop and kill it.
"""

from __future__ import annotations

from streams.broker.opening import ENGINES, open_broker, run_broker
from streams.broker.process import BrokerCommand, BrokerProcess

__all__ = ["ENGINES", "BrokerCommand", "BrokerProcess", "open_broker", "run_broker"]
