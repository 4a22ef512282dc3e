from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=200, unique=True)),
                ("kind", models.CharField(max_length=40)),
                ("payload", models.JSONField(default=dict)),
                ("made_at", models.DateTimeField()),
                ("due_at", models.DateTimeField()),
                ("attempts", models.PositiveIntegerField(default=0)),
                ("lease_until", models.DateTimeField(null=True)),
                ("sent_at", models.DateTimeField(null=True)),
                ("given_up", models.BooleanField(default=False)),
                ("said", models.CharField(blank=True, default="", max_length=200)),
            ],
            options={
                "verbose_name_plural": "outbox",
                "ordering": ["id"],
                "indexes": [
                    models.Index(condition=models.Q(("sent_at", None)), fields=["due_at"], name="outbox_due"),
                    models.Index(
                        condition=models.Q(("sent_at", None), _negated=True), fields=["sent_at"], name="outbox_done"
                    ),
                ],
            },
        ),
    ]
