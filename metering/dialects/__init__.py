"""Thin adapters from other systems' wire formats to `IncomingEvent`. None of them counts."""
