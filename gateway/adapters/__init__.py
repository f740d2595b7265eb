"""Many adapters on one base: what they are, where they lie, which replica holds them."""
