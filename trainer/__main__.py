"""`python -m trainer` is `hotstream`."""

from trainer.cli import main

main()
