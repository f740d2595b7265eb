"""Choosing among a route's targets: the objective, and the live estimates that it reads."""
