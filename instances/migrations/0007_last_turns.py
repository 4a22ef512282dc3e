from django.db import migrations, models


class Migration(migrations.Migration):
    """Old code beside it writes none of these: nobody is missed who never took a turn."""

    dependencies = [("instances", "0006_releases")]

    operations = [
        migrations.AddField(model_name="watch", name="tick_at", field=models.DateTimeField(null=True)),
        migrations.AddField(model_name="watch", name="reconciler_at", field=models.DateTimeField(null=True)),
        migrations.AddField(model_name="watch", name="redis_silent_since", field=models.DateTimeField(null=True)),
    ]
