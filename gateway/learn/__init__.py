"""Learned quality: from a prompt's features to who would be right."""
