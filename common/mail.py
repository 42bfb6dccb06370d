"""Mail, through Django's backend. What it says is the apps' own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypedDict

from django.core.mail import EmailMultiAlternatives, get_connection
from django.template.loader import render_to_string


class Texts(TypedDict):
    """What a mail says, for programs that show HTML and for those that do not."""

    text: str
    html: str


def render_texts(template: str, context: Mapping[str, Any]) -> Texts:
    """Return what `<template>.txt` and `<template>.html` say."""
    return Texts(
        text=render_to_string(f"{template}.txt", dict(context)),
        html=render_to_string(f"{template}.html", dict(context)),
    )


class Attachment(NamedTuple):
    name: str
    content: bytes
    content_type: str


class MailRun:
    """Several mails over one connection to the mail server. `with MailRun() as run: run.send(…)`."""

    def __init__(self) -> None:
        self._connection = get_connection()

    def __enter__(self) -> MailRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    def send(
        self,
        *,
        to: Sequence[str],
        subject: str,
        text: str,
        html: str,
        headers: Mapping[str, str] | None = None,
        attachments: Sequence[Attachment] = (),
    ) -> None:
        """Send one mail. Raises `OSError` (smtplib's errors are such); the next one connects anew."""
        message = EmailMultiAlternatives(
            subject=" ".join(subject.split()),
            body=text,
            to=list(to),
            connection=self._connection,
            headers=dict(headers or {}),
        )
        message.attach_alternative(html, "text/html")
        for attachment in attachments:
            message.attach(attachment.name, attachment.content, attachment.content_type)
        try:
            self._connection.open()
            message.send()
        except OSError:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        with suppress(OSError):
            self._connection.close()
