"""Compositions: which step is asked next, what it is asked, and what its answer is worth. Pure."""
