"""The asyncio shell around the upper layer: sockets, buffers, deadlines. Knows no service."""
