"""What the metering pages show: one frozen context per template, built here, only printed there.

Numbers come from `metering.queries` alone; here they are only chosen, named and put in order.
"""
