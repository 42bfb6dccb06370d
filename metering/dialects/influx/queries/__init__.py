"""Reads of the dialect: servers by what they are, and the history of what one of them reports."""
