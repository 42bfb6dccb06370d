"""Writes of scheduled reports: their definitions, their runs, and who wants no more of them."""
