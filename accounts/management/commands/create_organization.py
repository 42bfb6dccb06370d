"""`manage.py create_organization`: a person, their organization and its first API key, for scripts and first steps."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.core.validators import validate_email
from django.db import transaction

from accounts.models import Organization, Scope, User
from accounts.services import IssuedKey, create_organization, issue_api_key
from common.errors import ApplicationError

ACTOR = "operator"


class Command(BaseCommand):
    help = "Create an organization with its owner (made if new, by e-mail) and an API key with every right."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--name", required=True, help="the organization's name")
        parser.add_argument("--email", required=True, help="the owner's address; an existing account is reused")
        parser.add_argument("--password", help="for a new account; without one, reset it by mail before signing in")
        parser.add_argument("--zone", default="UTC", help="an IANA time zone (default UTC)")
        parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            validate_email(options["email"])
            organization, owner, key = self._create(options)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        except ApplicationError as error:
            raise CommandError(error.message) from error
        answer = {
            "organization": str(organization.pk),
            "name": organization.name,
            "user": owner.email,
            "api_key": key.text,
            "api_key_id": str(key.api_key.pk),
        }
        if options["json"]:
            self.stdout.write(json.dumps(answer))
        else:
            self.stdout.write("\n".join(f"{label + ':':<15}{value}" for label, value in answer.items()))

    @transaction.atomic
    def _create(self, options: dict[str, Any]) -> tuple[Organization, User, IssuedKey]:
        email = options["email"].lower()
        owner = User.objects.filter(email=email).first() or User.objects.create_user(email, options["password"])
        organization = create_organization(name=options["name"], owner=owner, actor=ACTOR, zone=options["zone"])
        key = issue_api_key(organization=organization, actor=ACTOR, name="first key", scopes=[Scope.ADMIN])
        return organization, owner, key
