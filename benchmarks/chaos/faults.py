"""The faults that a campaign draws from, and the scenarios that choose among them."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.chaos.site import MAX_AGENTS, Site

__all__ = ["FAULTS", "SCENARIOS", "TARGETS", "Fault"]

Undo = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault that has begun.

    Args:
        target: what it disturbs; one fault at a time disturbs a target.
        text: what it is, for the progress.
        seconds: how long it lasts.
        undo: ends it.
    """

    target: str
    text: str
    seconds: float = 0.0
    undo: Undo = lambda: None


# ---- processes -----------------------------------------------------------------------------------------------------


def _kill(site: Site, chance: random.Random, name: str) -> Fault:
    """Kills a process, which stays away for a while."""
    away_s = chance.choice([0.0, 0.0, chance.uniform(1, 9)])
    process = site.processes[name]
    process.kill()

    def undo() -> None:
        if site.processes.get(name) is process:  # and the number of agents has not been reduced meanwhile
            process.start()

    return Fault(target=name, text=f"kill -9 {name}, away for {away_s:.1f} s", seconds=away_s, undo=undo)


def _stop(site: Site, name: str, seconds: float) -> Fault:
    """Stops a process as a closed laptop would, and lets it go on."""
    process = site.processes[name]
    process.send(signal.SIGSTOP)
    return Fault(
        target=name,
        text=f"SIGSTOP {name} for {seconds:.1f} s",
        seconds=seconds,
        undo=lambda: process.send(signal.SIGCONT),
    )


def _kill_agent(site: Site, chance: random.Random) -> Fault:
    return _kill(site, chance, chance.choice(site.agents()))


def _stop_agent(site: Site, chance: random.Random) -> Fault:
    """Stops an agent for longer than its session, while another one runs to take its shards over."""
    name = chance.choice(site.agents())
    site.scale(max(2, len(site.agents())))
    return _stop(site, name, chance.uniform(7, 14))


def _scale(site: Site, chance: random.Random) -> Fault:
    before = len(site.agents())
    number = chance.choice([n for n in range(1, MAX_AGENTS + 1) if n != before])
    site.scale(number)
    return Fault(target="scale", text=f"{before} -> {number} agents")


def _kill_trainer(site: Site, chance: random.Random) -> Fault:
    return _kill(site, chance, "train")


def _stop_trainer(site: Site, chance: random.Random) -> Fault:
    return _stop(site, "train", chance.uniform(2, 12))


def _fill_disk(site: Site, chance: random.Random) -> Fault:
    """Fills the file system of the checkpoints, which is a small one of its own."""
    seconds, filler = chance.uniform(3, 10), site.disk / "filler"
    if not site.has_small_disk:
        return Fault(target="disk", text="(nothing: this user may not mount a small file system)")
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    return Fault(target="disk", text=f"disk full for {seconds:.1f} s", seconds=seconds, undo=filler.unlink)


def _kill_replay(site: Site, chance: random.Random) -> Fault:
    return _kill(site, chance, "replay") if "replay" in site.processes else _nothing("replay")


def _stop_replay(site: Site, chance: random.Random) -> Fault:
    """Stops the replay, now and then for longer than the broker keeps its transaction."""
    seconds = chance.choice([*(chance.uniform(2, 10) for _ in range(4)), 40.0])
    return _stop(site, "replay", seconds) if "replay" in site.processes else _nothing("replay")


def _replay_twice(site: Site, _: random.Random) -> Fault:
    """Resumes the replay while its run before is alive; one of the two ends."""
    if "replay" not in site.processes:
        return _nothing("replay")
    site.replay_again()
    return Fault(target="replay", text="resume the replay while it runs")


def _nothing(target: str) -> Fault:
    return Fault(target=target, text=f"(nothing: {target} has ended)")


# ---- broker and network --------------------------------------------------------------------------------------------


def _kill_broker(site: Site, chance: random.Random) -> Fault:
    seconds = chance.uniform(0, 8)
    site.broker.kill()
    return Fault(target="broker", text=f"kill -9 broker, away for {seconds:.1f} s", seconds=seconds,
                 undo=site.start_broker)  # fmt: skip


def _restart_broker(site: Site, chance: random.Random) -> Fault:
    seconds = chance.uniform(0, 8)
    site.broker.stop()
    return Fault(target="broker", text=f"broker stopped in order, away for {seconds:.1f} s", seconds=seconds,
                 undo=site.start_broker)  # fmt: skip


def _cut(site: Site, _: random.Random) -> Fault:
    number = site.proxy.num_connections
    site.proxy.cut()
    return Fault(target="broker", text=f"cut {number} connections")


def _hold(site: Site, chance: random.Random) -> Fault:
    seconds = chance.uniform(2, 15)
    site.proxy.hold()
    return Fault(target="broker", text=f"hold for {seconds:.1f} s", seconds=seconds, undo=site.proxy.forward)


def _refuse(site: Site, chance: random.Random) -> Fault:
    seconds = chance.uniform(2, 15)
    site.proxy.refuse()
    site.proxy.cut()
    return Fault(
        target="broker", text=f"refuse connections for {seconds:.1f} s", seconds=seconds, undo=site.proxy.forward
    )


def _drop(site: Site, chance: random.Random) -> Fault:
    seconds = chance.uniform(2, 10)
    site.proxy.drop()
    return Fault(target="broker", text=f"drop for {seconds:.1f} s", seconds=seconds, undo=site.proxy.forward)


def _delay(site: Site, chance: random.Random) -> Fault:
    seconds, delay_s = chance.uniform(3, 10), chance.uniform(0.02, 0.5)
    site.proxy.delay(delay_s)
    return Fault(target="broker", text=f"delay by {delay_s * 1000:.0f} ms for {seconds:.1f} s", seconds=seconds,
                 undo=lambda: site.proxy.delay(0.0))  # fmt: skip


FAULTS: dict[str, Callable[[Site, random.Random], Fault]] = {
    "kill-agent": _kill_agent,
    "stop-agent": _stop_agent,
    "scale": _scale,
    "kill-trainer": _kill_trainer,
    "stop-trainer": _stop_trainer,
    "fill-disk": _fill_disk,
    "kill-replay": _kill_replay,
    "stop-replay": _stop_replay,
    "replay-twice": _replay_twice,
    "kill-broker": _kill_broker,
    "restart-broker": _restart_broker,
    "cut": _cut,
    "hold": _hold,
    "refuse": _refuse,
    "drop": _drop,
    "delay": _delay,
}
# The beginning of the names of what a fault may disturb; it waits until no earlier one disturbs that.
TARGETS: dict[str, str] = {
    **dict.fromkeys(("kill-broker", "restart-broker", "cut", "hold", "refuse", "drop", "delay"), "broker"),
    **dict.fromkeys(("kill-agent", "stop-agent"), "agent"),
    **dict.fromkeys(("kill-trainer", "stop-trainer"), "train"),
    **dict.fromkeys(("kill-replay", "stop-replay", "replay-twice"), "replay"),
    "fill-disk": "disk",
    "scale": "scale",
}
_AGENTS = ("kill-agent", "stop-agent", "scale")
SCENARIOS: dict[str, tuple[str, ...]] = {
    "agents": _AGENTS,
    "broker": ("kill-broker", "restart-broker"),
    "network": ("cut", "hold", "refuse", "drop", "delay"),
    "trainer": ("kill-trainer", "stop-trainer", "fill-disk"),
    "replay": ("kill-replay", "stop-replay", "replay-twice"),
    "compaction": (*_AGENTS, "kill-broker"),
    "all": tuple(FAULTS),
}
