"""Synchronizing with other archives: what one side lacks is found out, and brought or sent."""
