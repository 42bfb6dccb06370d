"""The pure rules of billing: currencies, prices, rating, how usage is split between prices, billing periods and their
segments, proration, taxes, credits, commitments, and how usage is reported.

No ORM, no clock, no I/O. Money is in the currency's minor unit (cents, yen, fils) everywhere below this package: a
`Decimal` until its line is rounded, a whole number from then on.
"""
