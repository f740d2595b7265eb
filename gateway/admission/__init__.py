"""Admission: how many requests may be under way at a replica, and who of those waiting is next."""
