import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_derive_project_ids'),
    ]

    operations = [
        migrations.AlterField(
            model_name='project',
            name='hex_id',
            field=models.CharField(max_length=24, validators=[django.core.validators.RegexValidator('\\A[0-9a-f]{24}\\Z', 'An id is 24 hexadecimal digits.', 'invalid_id')]),
        ),
        migrations.AddConstraint(
            model_name='project',
            constraint=models.UniqueConstraint(fields=('organization', 'hex_id'), name='project_hex_id_once'),
        ),
    ]
