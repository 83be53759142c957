"""The interoperability matrix: every peer, every service, both roles; writes docs/interop.md."""
