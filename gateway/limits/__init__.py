"""Limits and budgets of keys, tenants and routes."""
