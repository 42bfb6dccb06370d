"""Real PostgreSQL 18 and Redis, shipped as wheels and driven by us under a data directory.

Owns where their files, binaries and sockets are, their settings, and how to start, await and stop them.
Does not own supervision (`config.runner`). We drive the wheels' binaries ourselves, because the wheels' own
start-up gives up after ten seconds (crash recovery may take minutes) and ties the servers to one process.

Neither server listens on the network: clients reach both through Unix sockets in directories that only the
owner may enter.
"""
