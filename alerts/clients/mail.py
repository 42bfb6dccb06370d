"""Mail, through Django's backend."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from django.core.mail import EmailMultiAlternatives, get_connection


class MailRun:
    """Several mails over one connection to the mail server. `with MailRun() as run: run.send(…)`."""

    def __init__(self) -> None:
        self._connection = get_connection()

    def __enter__(self) -> MailRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    def send(self, *, to: Sequence[str], subject: str, text: str, html: str) -> None:
        """Send one mail. Raises `OSError` (smtplib's errors are such); the next one connects anew."""
        message = EmailMultiAlternatives(
            subject=" ".join(subject.split()), body=text, to=list(to), connection=self._connection
        )
        message.attach_alternative(html, "text/html")
        try:
            self._connection.open()
            message.send()
        except OSError:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        with suppress(OSError):
            self._connection.close()
