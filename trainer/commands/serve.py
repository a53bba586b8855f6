"""`hotstream serve`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.cli.listen_options import listen_options
from streams.cli.log_lines import log_options, say
from streams.cli.options import kafka_options, open_kafka
from streams.cli.stop_request import StopRequest

if TYPE_CHECKING:
    from streams.telemetry.monitor import ProcessMonitor
    from trainer.serving.predictor import Predictor
    from trainer.serving.server import InferenceServer

__all__ = ["command"]

_STOP_S = 0.2


@click.command("serve", short_help="Serve a trained model over HTTP (Open Inference Protocol).")
@click.option(
    "--export",
    "export_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Serve this export at once (`hotstream train --export`), and what the topic has since.",
)
@click.option("--offline", is_flag=True, help="Serve the export alone, without a broker.")
@click.option("--model-name", default="hotstream", show_default=True, metavar="NAME", help="The model's name in paths.")
@listen_options(8000)
@click.option(
    "--max-request-bytes",
    type=click.IntRange(1024),
    default=64 << 20,
    show_default=True,
    metavar="BYTES",
    help="The largest request, decompressed.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Answer in N processes, beside one that follows the topic and shares its rows.  [default: one alone]",
)
@click.option("--pool-member", hidden=True)
@kafka_options
@log_options
def command(
    export_dir: Path | None,
    offline: bool,
    workers: int | None,
    pool_member: str | None,
    model_name: str,
    host: str,
    port: int,
    token_file: Path | None,
    max_request_bytes: int,
    **kafka: Any,
) -> None:
    """Serve what a trainer publishes (`hotstream train --publish`), a second after it was trained.

    Inputs are dense (FP32) and keys (UINT64), outputs probability and, on request, vectors; JSON or binary tensors.
    There is no TLS: for callers on other machines put a proxy with TLS before it.

    With --workers, `/metrics` has those of all processes, and `/v2/health/ready` is 503 while no process follows the
    topic. A process that is killed is started again; one that ends by itself ends all.

    \b
        hotstream serve --port 8000
        curl localhost:8000/v2/models/hotstream
    """
    from streams.dashboard.access import Access, read_token  # noqa: PLC0415  aiohttp takes time to import
    from trainer.serving.server import InferenceServer  # noqa: PLC0415  numba takes time to import

    if offline and export_dir is None:
        raise click.UsageError("--offline: expected --export DIR beside it")
    if offline and workers:
        raise click.UsageError("--workers: expected no --offline beside it; the workers share what a replica follows")
    request = StopRequest()
    if pool_member is not None:
        _run_member(
            pool_member, request, export_dir, kafka, name=model_name, host=host, token_file=token_file,
            max_bytes=max_request_bytes,
        )  # fmt: skip
        return
    if workers:
        _run_pool(workers, request, host, port, model_name, token_file)
        return
    access = Access(host, None if token_file is None else read_token(token_file))
    with (
        request.listening(),
        _opened(None if not offline else export_dir, export_dir, lambda: request.is_made, kafka) as (
            predictor,
            monitor,
        ),
    ):
        server = InferenceServer(predictor, model_name, access, max_bytes=max_request_bytes, figures=monitor.figures)
        asyncio.run(_run(server, host, port, model_name, lambda: request.is_made or predictor.why_not_live is not None))
        if predictor.why_not_live is not None:
            raise click.ClickException(predictor.why_not_live)


@contextmanager
def _opened(
    alone: Path | None, export_dir: Path | None, should_stop: Callable[[], bool], kafka: dict[str, Any]
) -> Iterator[tuple[Predictor, ProcessMonitor]]:
    """The model, an export alone or one that follows its topic in a thread; and the figures of the process."""
    from streams.telemetry.health import Health  # noqa: PLC0415
    from streams.telemetry.monitor import ProcessMonitor  # noqa: PLC0415
    from trainer.serving.predictor import Predictor  # noqa: PLC0415
    from trainer.serving.replica import Replica  # noqa: PLC0415

    if alone is not None:
        yield Predictor.of_export(alone), ProcessMonitor("serve")
        return
    with ExitStack() as opened:
        config = opened.enter_context(open_kafka(roles=["replica"], should_stop=should_stop, **kafka))
        replica = opened.enter_context(Replica(config, export=export_dir))
        monitor = ProcessMonitor("serve", Health())
        opened.callback(monitor.close)
        monitor.attach(replica.watched())
        replica.start()
        yield replica, monitor


async def _run(server: InferenceServer, host: str, port: int, name: str, should_stop: Callable[[], bool]) -> None:
    from streams.dashboard.site import listening  # noqa: PLC0415

    async with listening(server.app, host=host, port=port) as url:
        say(f"hotstream serve: {url}v2/models/{name}")
        while not should_stop():
            await asyncio.sleep(_STOP_S)


def _run_pool(count: int, request: StopRequest, host: str, port: int, name: str, token_file: Path | None) -> None:
    """Holds the port, and keeps a writer and N workers running."""
    from streams.dashboard.access import Access, read_token  # noqa: PLC0415
    from trainer.serving.pool import Pool, bind  # noqa: PLC0415

    Access(host, None if token_file is None else read_token(token_file))  # refuses here what each worker would
    with (
        request.listening(),
        tempfile.TemporaryDirectory(prefix="hotstream-serve-") as folder,
        bind(host, port) as listening,
    ):
        shown, bound = f"[{host}]" if ":" in host else host, listening.getsockname()[1]
        say(f"hotstream serve: http://{shown}:{bound}/v2/models/{name}")
        Pool(count, sys.argv[1:], listening, Path(folder)).run(lambda: request.is_made)


def _run_member(
    text: str, request: StopRequest, export_dir: Path | None, kafka: dict[str, Any], *, name: str, host: str,
    token_file: Path | None, max_bytes: int,
) -> None:  # fmt: skip
    """A process of a pool: the writer, or a worker."""
    from streams.dashboard.access import Access, read_token  # noqa: PLC0415
    from trainer.serving.pool import WRITER, Member  # noqa: PLC0415
    from trainer.serving.pool_members import work, write  # noqa: PLC0415  numba takes time to import

    member = Member.from_text(text)
    with request.listening():
        if member.role == WRITER:
            with open_kafka(roles=["replica"], should_stop=lambda: request.is_made, **kafka) as config:
                write(member, config, export_dir, lambda: request.is_made)
        else:
            access = Access(host, None if token_file is None else read_token(token_file))
            work(member, name, access, max_bytes, lambda: request.is_made)
