"""Retention: rules by which objects are deleted, and what keeps them from it."""
