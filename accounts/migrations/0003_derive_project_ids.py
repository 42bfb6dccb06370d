"""Gives every project the id that reports have derived from its key so far; no environment's id changes."""

from django.db import migrations

from accounts.domain import derive_project_id


def derive_ids(apps, schema_editor):
    projects = apps.get_model('accounts', 'Project')._base_manager
    changed = []
    for project in projects.filter(hex_id=None).iterator():
        project.hex_id = derive_project_id(organization_id=project.organization_id, key=project.key)
        changed.append(project)
    projects.bulk_update(changed, ['hex_id'], batch_size=1000)


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0002_project_hex_id'),
    ]

    operations = [
        migrations.RunPython(derive_ids, migrations.RunPython.noop, elidable=True),
    ]
