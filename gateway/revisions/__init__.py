"""Which revision a gateway serves, what another would change, and how a new one is guarded."""
