"""The addresses that the usage-client posts to."""
