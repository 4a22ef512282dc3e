from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("experiments", "0001_data"),
        ("instances", "0004_sweeps_that_remember"),
        ("quotas", "0001_sizes_and_limits"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="instance",
            name="alarmed_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="instance",
            name="cloud_flavour",
            field=models.CharField(blank=True, db_default="", default="", max_length=255),
        ),
        migrations.AddField(
            model_name="instance",
            name="cloud_host",
            field=models.CharField(blank=True, db_default="", default="", max_length=255),
        ),
        migrations.AddField(
            model_name="instance",
            name="discarding_since",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="instance",
            name="silent_since",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="watch",
            name="booting_due_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="watch",
            name="ready_due_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AlterField(
            model_name="instance",
            name="builds_lost",
            field=models.PositiveSmallIntegerField(db_default=0, default=0),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(condition=models.Q(("state", "waiting")), fields=["due_at"], name="instance_waiting"),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                condition=models.Q(("admitted_at__isnull", False)), fields=["owner"], name="instance_admitted"
            ),
        ),
    ]
