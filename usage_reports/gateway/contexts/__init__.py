"""What the analytics page shows: one frozen context per template, built here, only printed there."""
