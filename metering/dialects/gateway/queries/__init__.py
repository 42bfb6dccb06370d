"""Reads of what an organization says about its gateway."""
