"""Talking to the outside: webhook requests and mail. The only modules of the app that do."""
