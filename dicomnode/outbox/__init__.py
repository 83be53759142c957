"""Forwarding: what has been received is sent on, whatever becomes of the destination meanwhile."""
