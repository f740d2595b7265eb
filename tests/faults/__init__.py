"""Every way in which a backend fails, tried on a whole gateway: `python -m tests.faults` writes
what is seen into docs/reliability.md."""
