from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0004_project_hex_id_once'),
    ]

    operations = [
        migrations.AddConstraint(
            model_name='project',
            constraint=models.CheckConstraint(condition=models.Q(('hex_id__regex', '\\A[0-9a-f]{24}\\Z')), name='project_hex_id_is_hex'),
        ),
        migrations.AddConstraint(
            model_name='environment',
            constraint=models.CheckConstraint(condition=models.Q(('hex_id__regex', '\\A[0-9a-f]{24}\\Z')), name='environment_hex_id_is_hex'),
        ),
    ]
