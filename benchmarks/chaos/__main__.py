"""`python -m benchmarks.chaos`: faults for a whole pipeline, and an audit of what it has written."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.chaos.audit import Audit
from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.faults import SCENARIOS
from benchmarks.chaos.progress_lines import ProgressLines
from benchmarks.chaos.repetition import repeat_last_checkpoint
from benchmarks.chaos.site import Site, SiteConfig
from streams.cli.reports import Report

__all__ = ["command"]

_SECONDS_A_FAULT = 6.0
_SHOWN = 20


@click.command()
@click.option("--seed", type=int, default=1, show_default=True, help="Decides the faults and the log.")
@click.option("--faults", "num_faults", type=click.IntRange(1), default=20, show_default=True)
@click.option("--scenario", type=click.Choice(sorted(SCENARIOS)), default="all", show_default=True)
@click.option("--rows", type=click.IntRange(1), help="Rows of the log.  [default: enough for the faults]")
@click.option("--rate", type=click.IntRange(1), default=300, show_default=True, help="Rows replayed per second.")
@click.option("--shards", type=click.IntRange(1), default=4, show_default=True)
@click.option("--capacity", type=click.IntRange(1), default=300, show_default=True, help="Hot rows.")
@click.option("--signal", type=click.Choice(["gradient", "frequency", "both"]), default="gradient", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Keep data and logs here.  [default: a temporary one]")
@click.option("--json", "json_path", metavar="PATH", help="Write the report as JSON to PATH.")
def command(
    seed: int,
    num_faults: int,
    scenario: str,
    rows: int | None,
    rate: int,
    shards: int,
    capacity: int,
    signal: str,
    folder: Path | None,
    json_path: str | None,
) -> None:
    """Disturb agents, trainer, replay, broker and network, and audit the topics; exit 1 if anything differs."""
    report = Report("chaos")
    with tempfile.TemporaryDirectory(prefix="hotstream-chaos-") as temporary, ProgressLines() as lines:
        path = folder or Path(temporary)
        path.mkdir(parents=True, exist_ok=True)
        logging.basicConfig(filename=path / "harness.txt", level=logging.WARNING)
        config = SiteConfig(
            folder=path,
            rows=rows or int(num_faults * _SECONDS_A_FAULT * rate) + 30 * rate,
            seed=seed,
            rate_rows_s=rate,
            shards=shards,
            capacity=capacity,
            signal=signal,
            is_compacted=scenario == "compaction",
        )
        with Site(config, lines) as site:
            campaign = Campaign(site, seed=seed, scenario=scenario)
            started_s = time.monotonic()
            differences, content = run(site, campaign, num_faults)
        content = {
            "seed": seed,
            "scenario": scenario,
            "faults": campaign.done,
            "campaign_s": round(time.monotonic() - started_s, 1),
            "recoveries_s": campaign.recoveries_s,
            "config": {"rows": config.rows, "rate_rows_s": rate, "shards": shards, "capacity": capacity,
                       "batch_rows": config.batch_rows, "signal": signal, "half_life": config.half_life},
            **content,
        }  # fmt: skip
    report.finish(json_path, ok=not differences, differences=differences, **content)
    for difference in differences[:_SHOWN]:
        click.echo(f"DIFFERS  {difference}")
    click.echo(f"{sum(campaign.done.values())} faults, {len(differences)} differences; {content['counts']}")
    sys.exit(1 if differences else 0)


def run(site: Site, campaign: Campaign, num_faults: int) -> tuple[list[str], dict[str, Any]]:
    """Runs the campaign and the audit; returns the differences and the figures."""
    campaign.begin()
    campaign.disturb(num_faults)
    trained = campaign.settle()
    counted = {number: shard.counted for number, shard in site.observer.shards.items()}
    for name in list(site.processes):
        site.end(name)
    site.lines.say("audit")
    site.lines.state = "auditing"
    audit = Audit(site.kafka, site.config, site.log_path)
    audit.check_rows()
    audit.check_importance(counted)
    audit.check_assignments()
    audit.check_prefixes()
    audit.check_tables()
    audit.compare_table("the subscriber that followed", site.observer.reader.table)
    audit.check_trainer(trained)
    repeated = repeat_last_checkpoint(site)
    campaign.force_compaction()
    audit.check_late_table("a new subscriber after compaction")
    starts = {process.name: process.num_starts for process in site.all_processes() if process.num_starts}
    expected = [f"{ending.name} after {ending.age_s:.0f} s: {ending.last_line}" for ending in site.expected]
    return [*campaign.problems, *audit.differences, *repeated[0], *site.find_faults()], {
        "counts": audit.counts, "repeated": repeated[1], "starts": starts, "expected_ends": expected,
        "small_disk": site.has_small_disk,
    }  # fmt: skip


if __name__ == "__main__":
    command()
