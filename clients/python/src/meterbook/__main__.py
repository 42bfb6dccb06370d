"""`python -m meterbook` is the command line."""

from meterbook.cli import main

main()
