"""`manage.py create_organization`."""

import json
from datetime import datetime
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from accounts.access import authenticate_key
from accounts.models import Membership, Organization, User
from tests import factories

pytestmark = pytest.mark.django_db


def run(**options: object) -> str:
    output = StringIO()
    call_command("create_organization", stdout=output, **options)
    return output.getvalue()


def test_prints_one_json_object_with_a_working_key(now: datetime) -> None:
    answer = json.loads(run(name="Initech", email="Ann@example.test", password="a long password", json=True))

    organization = Organization.objects.get()
    assert answer["organization"] == str(organization.pk)
    assert answer["user"] == "ann@example.test"
    assert authenticate_key(answer["api_key"], now=now).organization == organization
    assert User.objects.get().check_password("a long password")
    assert Membership.objects.for_organization(organization).get().role == "owner"


def test_existing_person_is_reused_with_their_password() -> None:
    ann = factories.make_user(name="Ann")

    run(name="Second", email=ann.email, password="another password")

    ann.refresh_from_db()
    assert ann.check_password(factories.PASSWORD)
    assert ann.memberships.count() == 1


def test_people_read_a_table() -> None:
    assert "api_key:       mb_" in run(name="Initech", email="ann@example.test")


@pytest.mark.parametrize(
    "change", [{"zone": "Mars/Olympus"}, {"email": "no address"}, {"name": ""}, {"name": "x" * 201}]
)
def test_refusals_leave_nothing_behind(change: dict[str, str]) -> None:
    with pytest.raises(CommandError):
        run(**({"name": "Initech", "email": "ann@example.test"} | change))

    assert not User.objects.exists()
    assert not Organization.objects.exists()
