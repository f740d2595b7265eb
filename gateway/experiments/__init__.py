"""Live comparison: who gets which arm, and what may be said of the difference at any time."""
