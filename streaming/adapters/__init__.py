"""One outside system a file; adapters touch the world and decide nothing."""
