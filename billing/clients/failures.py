"""What becomes of a call to a payment provider that has no answer, or a refusal for one."""

from __future__ import annotations

from billing.domain.reporting import Answer


class CallFailed(Exception):
    """A call that was refused or whose answer is not known."""

    def __init__(self, answer: Answer, message: str, *, is_answered: bool) -> None:
        super().__init__(message)
        self.answer = answer
        self.message = message
        # An answer came, whatever it said: nothing of this call is still going on there.
        self.is_answered = is_answered
