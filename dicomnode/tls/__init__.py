"""TLS without sockets: files, contexts, and what a failed handshake means."""
