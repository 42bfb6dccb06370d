"""What the pages of reports show: one frozen context per template, built here, only printed there."""
