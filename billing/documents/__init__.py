"""Invoices as documents: what is printed of one, in words, and the PDF, CSV and mail that are made of that.

Computes no amount and decides nothing: it is given an invoice and its content (`billing.queries.invoices`).
"""
