"""Runs the `hotstream` command: `python -m trainer`."""

from trainer.cli import main

main()
