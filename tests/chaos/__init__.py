"""Mixed traffic while backends are killed, held and started again and the configuration is swapped:
`python -m tests.chaos --minutes 30 --seed 7`."""
