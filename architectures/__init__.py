"""What an architecture is: graphs, ops, search spaces, and the compile-once executor."""
