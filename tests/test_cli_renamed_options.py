"""Former names of options: a command accepts them, with a warning that names the present one."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from streams.cli.renamed_options import RenamedOptions


@click.command(cls=RenamedOptions, renamed={"--rate": "--learning-rate"})
@click.option("--learning-rate", type=float, default=1.0)
@click.argument("words", nargs=-1)
def command(learning_rate: float, words: tuple[str, ...]) -> None:
    click.echo(f"{learning_rate} {' '.join(words)}")


@pytest.mark.parametrize("arguments", [["--rate", "2"], ["--rate=2"]])
def test_a_former_name_works_and_the_warning_names_the_present_one(arguments):
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0
    assert done.stdout == "2.0 \n"
    assert "--rate is now --learning-rate" in done.stderr


def test_the_present_name_gives_no_warning():
    done = CliRunner().invoke(command, ["--learning-rate=3", "rate"])
    assert (done.stdout, done.stderr) == ("3.0 rate\n", "")


@pytest.mark.parametrize(
    ("name", "former", "present"),
    [
        ("train", "--rate", "--learning-rate"),
        ("train", "--dense-rate", "--dense-learning-rate"),
        ("train", "--until-end", "--idle-timeout"),
        ("train", "--keep", "--keep-checkpoints"),
        ("evaluate", "--world", "--generator-seed"),
        ("bench trainer", "--batch", "--batch-rows"),
    ],
)
def test_commands_accept_the_former_names_of_their_options(name, former, present):
    from trainer.cli import cli  # noqa: PLC0415

    done = CliRunner().invoke(cli, [*name.split(), f"{former}=nonsense"])
    assert done.exit_code == 2
    assert f"{former} is now {present}" in done.output
    assert "nonsense" in done.output
