"""Ids of projects and environments: derived from their keys unless given, registered or not, for ever the same."""

import itertools
from importlib import import_module

import pytest
from django.apps import apps
from django.db import IntegrityError, connection
from pytest_django import DjangoAssertNumQueries

from accounts.domain import derive_environment_id, derive_project_id
from accounts.models import Environment, Organization, Project
from accounts.queries import environment_ids, project_ids
from accounts.services import create_environment, create_project


class TestDerivation:
    """Stored ids and reports that people saved rely on exactly these; expected values are from `sha256sum`."""

    def test_project(self) -> None:
        # printf '[7, "project", "web"]' | sha256sum
        assert derive_project_id(organization_id=7, key="web") == "1b36d9381ee0229b54a62252"

    def test_environment(self) -> None:
        # printf '[7, "environment", "web", "test"]' | sha256sum
        expected = "179711d945e1413743f4b47a"
        assert derive_environment_id(organization_id=7, project_key="web", key="test") == expected

    def test_key_of_any_characters(self) -> None:
        # printf '[7, "project", "\\u00e4"]' | sha256sum
        assert derive_project_id(organization_id=7, key="ä") == "0bea3387ee303d0c78be0afb"

    def test_nothing_else_has_the_same_id(self) -> None:
        keys = ["a", "b", "ab", "a/b", 'a", "b', ""]
        ids = [derive_project_id(organization_id=number, key=key) for number in (1, 11) for key in keys]
        ids += [
            derive_environment_id(organization_id=number, project_key=project_key, key=key)
            for number in (1, 11)
            for project_key, key in itertools.product(keys, keys)
        ]

        assert len(set(ids)) == len(ids) == 2 * 6 + 2 * 36


@pytest.mark.django_db
class TestRegistered:
    def test_unregistered_keys_have_the_id_that_they_get(self, org: Organization) -> None:
        before = project_ids(org)["web"], environment_ids(org)["web", "test"]

        project = create_project(organization=org, actor="test", key="web", name="Web")
        environment = create_environment(organization=org, actor="test", project=project, key="test", name="Test")

        assert (project.hex_id, environment.hex_id) == before
        assert (project_ids(org)["web"], environment_ids(org)["web", "test"]) == before

    def test_given_ids_are_kept(self, org: Organization) -> None:
        project = create_project(organization=org, actor="test", key="web", name="Web", hex_id="a" * 24)
        create_environment(organization=org, actor="test", project=project, key="test", name="Test", hex_id="b" * 24)

        assert project_ids(org)["web"] == "a" * 24
        assert environment_ids(org)["web", "test"] == "b" * 24

    def test_same_keys_of_two_organizations_have_different_ids(
        self, org: Organization, other_org: Organization
    ) -> None:
        # Every organization begins with a project `default` and its environment `production`.
        assert project_ids(org)["default"] == Project.objects.for_organization(org).get().hex_id
        assert project_ids(org)["default"] != project_ids(other_org)["default"]
        keys = ("default", "production")
        assert environment_ids(org)[keys] != environment_ids(other_org)[keys]

    def test_another_organization_may_have_the_same_id(self, org: Organization, other_org: Organization) -> None:
        for organization in (org, other_org):
            create_project(organization=organization, actor="test", key="web", name="Web", hex_id="a" * 24)

        assert project_ids(org)["web"] == project_ids(other_org)["web"]

    def test_one_query_for_all_keys(self, org: Organization, django_assert_num_queries: DjangoAssertNumQueries) -> None:
        for number in range(3):
            create_project(organization=org, actor="test", key=f"p{number}", name="P")

        with django_assert_num_queries(2):
            projects, environments = project_ids(org), environment_ids(org)
            for number in range(10):
                assert len(projects[f"p{number}"]) == len(environments[f"p{number}", "production"]) == 24


@pytest.mark.django_db
@pytest.mark.parametrize("hex_id", ["", "0" * 23, "A" * 24, "0" * 23 + "\n"])
class TestForm:
    """The database takes no other ids, whoever writes them."""

    def test_project(self, org: Organization, hex_id: str) -> None:
        with pytest.raises(IntegrityError, match="project_hex_id_is_hex"):
            Project.objects.create(organization=org, key="web", name="Web", hex_id=hex_id)

    def test_environment(self, org: Organization, hex_id: str) -> None:
        project = Project.objects.for_organization(org).get()
        with pytest.raises(IntegrityError, match="environment_hex_id_is_hex"):
            Environment.objects.create(organization=org, project=project, key="test", name="Test", hex_id=hex_id)


@pytest.mark.django_db
def test_projects_from_before_there_were_ids_get_the_derived_one(org: Organization, other_org: Organization) -> None:
    create_project(organization=org, actor="test", key="web", name="Web")
    with connection.cursor() as cursor:  # undone with the test: PostgreSQL rolls back changes of tables too
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE accounts_project ALTER COLUMN hex_id DROP NOT NULL")
        cursor.execute("UPDATE accounts_project SET hex_id = NULL WHERE organization_id = %s", [org.pk])
        cursor.execute(
            "UPDATE accounts_project SET hex_id = repeat('0', 24) WHERE organization_id = %s", [other_org.pk]
        )
    environments = dict(environment_ids(org))

    import_module("accounts.migrations.0003_derive_project_ids").derive_ids(apps, None)

    assert dict(project_ids(org)) == {
        key: derive_project_id(organization_id=org.pk, key=key) for key in ("default", "web")
    }
    assert dict(project_ids(other_org)) == {"default": "0" * 24}
    assert dict(environment_ids(org)) == environments
