"""`hotstream audit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.cli.log_lines import log_options
from streams.cli.options import kafka_options, open_kafka
from streams.cli.reports import Report, json_option

if TYPE_CHECKING:
    from trainer.serving.audit import Audit, LocalSource, Source

__all__ = ["command"]

TOPIC = "topic"
_SHOWN = 10


@click.command("audit", short_help="Compare what is served with what was trained.")
@click.argument("served")
@click.option(
    "--against",
    default=TOPIC,
    show_default=True,
    metavar="TRAINED",
    help="What was trained: the folder of --checkpoint-dir, an export, or `topic`.",
)
@click.option("--keys", "count", type=click.IntRange(2), default=10_000, show_default=True, help="Keys to compare.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of their choice.")
@click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to ask again for keys that differ.",
)
@click.option("--model-name", default="hotstream", show_default=True, metavar="NAME", help="The model of an endpoint.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="File whose first line is the token of an endpoint."
)
@kafka_options
@json_option
@log_options
def command(
    served: str,
    against: str,
    count: int,
    seed: int,
    patience_s: float,
    model_name: str,
    token_file: Path | None,
    json_path: str | None,
    **kafka: Any,
) -> None:
    """Compare the vectors that SERVED has with those that were trained, for sampled keys, hot and shared.

    SERVED is the address of a `hotstream serve`, an export, or `topic`. A vector that differs is stale if what is
    served is of an earlier step than what was trained; otherwise it is corrupt, and the exit code is 1.

    \b
        hotstream audit http://localhost:8000                    # against the topic `embeddings`
        hotstream audit out --against run1                       # an export against the newest checkpoint
    """
    from trainer.serving.audit import LocalSource, audit, sample_keys  # noqa: PLC0415  numba takes time to import

    report = Report("audit")
    with (
        _opened_local(against, kafka) as trained,
        _opened_served(served, model_name, token_file, kafka) as source,
    ):
        keys = sample_keys(
            trained.predictor, count, seed, source.predictor if isinstance(source, LocalSource) else None
        )
        found = audit(source, trained, keys, patience_s=patience_s)
    damaged = [number for number, is_equal in enumerate(trained.predictor.verify()) if is_equal is False]
    _show(found)
    content = {**asdict(found), "num_corrupt": found.num_corrupt, "damaged_shards": damaged}
    report.finish(json_path, ok=not found.num_corrupt and not damaged, **content)
    if damaged:
        raise click.ClickException(f"{trained.name}: shards {damaged} have other rows than the trainer's digests")
    if found.num_corrupt:
        raise click.ClickException(f"{served}: {found.num_corrupt} of {found.num_keys} vectors are corrupt")


@contextmanager
def _opened_served(served: str, model_name: str, token_file: Path | None, kafka: dict[str, Any]) -> Iterator[Source]:
    from streams.dashboard.access import read_token  # noqa: PLC0415  aiohttp takes time to import
    from trainer.serving.endpoint import EndpointSource  # noqa: PLC0415

    if served.startswith(("http://", "https://")):
        token = None if token_file is None else read_token(token_file)
        yield EndpointSource(served, model=model_name, token=token)
        return
    with _opened_local(served, kafka) as source:
        yield source


@contextmanager
def _opened_local(name: str, kafka: dict[str, Any]) -> Iterator[LocalSource]:
    """The topic, or the export or checkpoint in a folder."""
    from trainer.serving.audit import LocalSource  # noqa: PLC0415
    from trainer.serving.export_files import is_export  # noqa: PLC0415
    from trainer.serving.predictor import Predictor  # noqa: PLC0415
    from trainer.serving.replica import Replica  # noqa: PLC0415

    if name == TOPIC:
        with open_kafka(roles=["replica"], **kafka) as config, Replica(config) as replica:
            replica.catch_up()
            yield LocalSource(replica, replica.catch_up)
    elif is_export(Path(name)):
        yield LocalSource(Predictor.of_export(Path(name)))
    else:
        from trainer.serving.checkpointed import read_checkpointed  # noqa: PLC0415  torch takes time to import

        yield LocalSource(Predictor.of(read_checkpointed(Path(name)), name))


def _show(found: Audit) -> None:
    stale = len(found.differences) - found.num_corrupt
    click.echo(
        f"{found.num_keys} keys, {found.num_hot} of them hot: {found.num_equal} equal, {stale} stale, "
        f"{found.num_corrupt} corrupt"
    )
    step = "unknown" if found.served_step is None else f"{found.served_step:,}"
    behind = "" if found.behind_ms is None else f"; what is served is {found.behind_ms / 1000:,.1f} s older"
    click.echo(f"served as of row {step}, trained {found.trained_step:,}{behind}")
    for one in found.differences[:_SHOWN]:
        quanta = "" if one.quanta is None else f", {one.quanta:g} steps of its format"
        click.echo(f"  {one.feature}  {one.tier}  {'stale' if one.is_stale else 'corrupt'}  by {one.most:.3g}{quanta}")
    if len(found.differences) > _SHOWN:
        click.echo(f"  ... and {len(found.differences) - _SHOWN} more")
