"""Background work of accounts: mail."""

from celery import shared_task
from django.utils import timezone

from accounts.clients import mail_invitation
from accounts.queries import find_open_invitation


@shared_task(
    name="accounts.send_invitation_mail",
    autoretry_for=(OSError,),
    retry_backoff=30,
    retry_backoff_max=3600,
    max_retries=10,
)
def send_invitation_mail(invitation_id: int, token: str) -> None:
    """Mail an invitation that is still open. Sent twice in the worst case, which is harmless.

    The token travels as an argument because the database keeps only its hash; the broker forgets it with the task.
    """
    invitation = find_open_invitation(token, now=timezone.now())
    if invitation is not None and invitation.pk == invitation_id:
        mail_invitation(invitation, token)
