"""The adapters: checked, mixed, stored, placed, kept present."""
