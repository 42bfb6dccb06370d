"""What the dialect's pages show: one frozen context per template."""
