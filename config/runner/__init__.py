"""The supervisor behind `make run`: everything that Meterbook needs, as children of one process.

    python -m config.runner

Owns start-up order, restarts, logs and a clean stop. Does not own what the children do, nor where the embedded
servers keep their files (`config.embedded`).
"""
