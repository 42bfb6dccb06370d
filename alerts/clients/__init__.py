"""Talking to the outside: webhook requests. The only module of the app that does."""
