import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("quotas", "0001_sizes_and_limits")]

    operations = [
        migrations.AddField(
            model_name="flavour",
            name="build_minutes",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="How long the cloud may take to make one before it is made anew; empty for 15 minutes.",
                null=True,
                validators=[django.core.validators.MinValueValidator(1)],
                verbose_name="build time (minutes)",
            ),
        ),
    ]
