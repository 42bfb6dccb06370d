"""`manage.py map_instance ID --organization N --customer NAME`: the operator says whose an instance's records are."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.models import Organization
from common.errors import ApplicationError
from metering.dialects.weave.services import map_instance, release_quarantined

ACTOR = "operator"


class Command(BaseCommand):
    help = "Count an instance's records for a customer of an organization, those that wait included."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("internal_instance_id")
        parser.add_argument("--organization", type=int, metavar="ID", required=True)
        parser.add_argument("--customer", metavar="EXTERNAL_ID", required=True)
        parser.add_argument("--leave-waiting", action="store_true", help="do not count what came before")

    def handle(
        self,
        *args: Any,
        internal_instance_id: str,
        organization: int,
        customer: str,
        leave_waiting: bool,
        **options: Any,
    ) -> None:
        found = Organization.objects.filter(pk=organization).first()
        if found is None:
            raise CommandError(f"There is no organization {organization}.")
        try:
            map_instance(
                organization=found,
                internal_instance_id=internal_instance_id,
                customer_external_id=customer,
                actor=ACTOR,
            )
        except ApplicationError as error:
            raise CommandError(error.message) from None
        self.stdout.write(f"{internal_instance_id} is {customer} of {found.name}.")
        if not leave_waiting:
            result = release_quarantined(
                organization=found, internal_instance_id=internal_instance_id, actor=ACTOR, now=timezone.now()
            )
            self.stdout.write(f"{result.counted} records that waited are counted; {result.still_waiting} still wait.")
