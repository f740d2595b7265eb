"""The kinds of file that a team edits, as pydantic models.

The JSON Schemas that editors use and the reference in `docs/configuration.md` are made from these.
"""
