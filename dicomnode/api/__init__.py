"""What programs may change and read over HTTP, with a token."""
