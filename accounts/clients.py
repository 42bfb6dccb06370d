"""Mail that accounts sends. The only module of the app that talks to a mail server."""

from django.conf import settings
from django.core.mail import send_mail
from django.template.loader import render_to_string

from accounts.models import Invitation

# The page where an invitation is accepted, before its token.
INVITATION_PATH = "/invitations/"


def invitation_url(token: str) -> str:
    return f"{settings.PUBLIC_URL}{INVITATION_PATH}{token}"


def mail_invitation(invitation: Invitation, token: str) -> None:
    """Send the link. Raises `OSError` (smtplib's errors are such) when the mail server refuses or is away."""
    context = {"invitation": invitation, "url": invitation_url(token)}
    send_mail(
        subject=f"Join {invitation.organization.name} on Meterbook".replace("\n", " "),
        message=render_to_string("accounts/email/invitation.txt", context),
        from_email=None,
        recipient_list=[invitation.email],
    )
