from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("instances", "0003_guest_claims_and_consoles"),
    ]

    operations = [
        migrations.AddField(
            model_name="sighting",
            name="quarantined_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="sweep",
            name="accepted",
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="sweephold",
            name="detail",
            field=models.CharField(blank=True, db_default="", default="", max_length=500),
        ),
    ]
