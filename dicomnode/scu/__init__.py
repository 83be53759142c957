"""The calling side: operations that we ask other nodes for, on associations of ours."""
