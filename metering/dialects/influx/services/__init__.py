"""Writes of the dialect: reports stored, anonymous ones kept for a while, clusters registered."""
