"""`python -m benchmarks`: what this machine does with Meterbook, measured as users run it.

Owns a throw-away installation (embedded PostgreSQL and Redis with the settings of `make run`, the real web server and
Celery worker), the load that is put on it, and the table of what came out. Owns no shortcut into the server: events
go in and usage comes out over HTTP; only the years of history that the reads need are written straight to the
database, and then rolled up by the ordinary code.

`run` says which parts there are; each part is one module. `docs/benchmarks.md` explains the figures.
"""
