"""What the alerts pages show: one frozen context per template, built here, only printed there.

Whether something fires is decided by the services; usage numbers come from `metering.queries`.
"""
