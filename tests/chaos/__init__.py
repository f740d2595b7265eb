"""Mixed traffic while backends are killed, held and started again, revisions are applied, rolled
back and reloaded from files, and candidates drained: `python -m tests.chaos --minutes 30 --seed 7`.
"""
