"""`python -m gateway.cli`: the command, for a process that is begun from another."""

from gateway.cli import main

main()
