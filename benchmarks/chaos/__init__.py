"""`python -m benchmarks.chaos --rounds 20 --seed 1`: kill -9 at random moments, and then count.

A real installation under its supervisor, clients that send known events and retry what was not answered, and rounds
in which something is killed: web server, worker, PostgreSQL, Redis, one of their processes, or everything at once.
At the end the clients' own books are compared with what the server kept and what it answers.

Owns its installation (a temporary directory and a free port) and kills only processes of that installation's tree,
found by process id from its supervisor down.
"""
