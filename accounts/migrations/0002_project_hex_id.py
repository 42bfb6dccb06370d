import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0001_initial'),
    ]

    operations = [
        migrations.AddField(
            model_name='project',
            name='hex_id',
            field=models.CharField(max_length=24, null=True, validators=[django.core.validators.RegexValidator('\\A[0-9a-f]{24}\\Z', 'An id is 24 hexadecimal digits.', 'invalid_id')]),
        ),
    ]
