"""What can be wrong with an expression: its text, when a route is saved, or what it finds in one record."""

from __future__ import annotations


class ExpressionError(ValueError):
    """The text is no expression, or can never give a number. `column` counts from 1."""

    def __init__(self, code: str, message: str, column: int) -> None:
        super().__init__(message)
        self.code, self.message, self.column = code, message, column


class MeteringError(Exception):
    """An expression gives no usable number for a record. `code` is what is recorded."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message
