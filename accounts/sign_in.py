"""How django-allauth makes accounts here: who may sign up, what a new account owns, where mailed links lead."""

import base64
import hashlib
from typing import Any
from urllib.parse import urlsplit

import structlog
from allauth.account.adapter import DefaultAccountAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from cryptography.fernet import Fernet
from django import forms
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from accounts.clients import INVITATION_PATH
from accounts.models import User
from accounts.queries import find_open_invitation, has_open_invitation
from accounts.services import create_organization

logger = structlog.get_logger("meterbook.sign_in")


class AccountAdapter(DefaultAccountAdapter):
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Open to all where the installation says so, else to whoever comes from a valid invitation."""
        return settings.IS_SIGNUP_OPEN or _has_invitation(request)

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Send a mail whose links lead to our public address, whatever `Host` the request claimed.

        Otherwise a forged header would mail a password-reset link that leads to the forger's site. A mail server
        that is away is logged, not shown: signing up must not fail for it, and every mail here can be asked for again.
        """
        ours = {name: _at_public_url(value) if name.endswith("_url") else value for name, value in context.items()}
        try:
            super().send_mail(template_prefix, email, ours)
        except OSError as error:  # smtplib's errors are such
            logger.error("mail_not_sent", template=template_prefix, reason=str(error))


class MFAAdapter(DefaultMFAAdapter):
    """Keeps the secrets of two-factor codes encrypted: a copy of the database alone must not make codes."""

    def encrypt(self, text: str) -> str:
        return _fernet().encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        return _fernet().decrypt(encrypted_text.encode()).decode()


class SignupForm(forms.Form):
    """What we ask beyond e-mail and password. A new person founds an organization unless one has invited them."""

    name = forms.CharField(label="Your name", max_length=200)
    organization_name = forms.CharField(
        label="Organization",
        max_length=200,
        required=False,
        help_text="Leave it empty if you were invited to one.",
    )

    def signup(self, request: HttpRequest, user: User) -> None:
        """Called by allauth with the saved user."""
        organization_name = self.cleaned_data["organization_name"]
        with transaction.atomic():
            user.name = self.cleaned_data["name"]
            user.save(update_fields=["name"])
            if organization_name or not has_open_invitation(user.email, now=timezone.now()):
                create_organization(
                    name=organization_name or f"{user.name}'s organization"[:200],
                    owner=user,
                    actor=f"user:{user.email}",
                )


def _has_invitation(request: HttpRequest) -> bool:
    """Tell whether the person comes from an invitation's page: `next` is where they will go back to."""
    path = str(request.POST.get("next") or request.GET.get("next") or "")
    if not path.startswith(INVITATION_PATH):
        return False
    token = path.removeprefix(INVITATION_PATH)
    return find_open_invitation(token, now=timezone.now()) is not None


def _at_public_url(url: Any) -> Any:
    parts = urlsplit(str(url))
    return f"{settings.PUBLIC_URL}{parts._replace(scheme='', netloc='').geturl()}" if parts.netloc else url


def _fernet() -> Fernet:
    key = hashlib.sha256(b"accounts.mfa:" + settings.SECRET_KEY.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(key))
