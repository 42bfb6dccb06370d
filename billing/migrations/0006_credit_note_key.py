"""A credit note bears the idempotency key of its request, so that a repeated one gives nothing back twice."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0005_immutable_invoices")]

    operations = [
        migrations.AddField(
            "invoice",
            "idempotency_key",
            models.CharField(blank=True, db_collation="C", default="", max_length=255),
            preserve_default=False,
        ),
        migrations.AddField(
            "invoice",
            "request_digest",
            models.CharField(blank=True, db_collation="C", default="", max_length=64),
            preserve_default=False,
        ),
        migrations.AddConstraint(
            "invoice",
            models.UniqueConstraint(
                fields=["organization", "idempotency_key"],
                condition=~models.Q(idempotency_key=""),
                name="invoice_key_once",
            ),
        ),
    ]
