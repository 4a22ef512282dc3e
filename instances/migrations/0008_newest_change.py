from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("instances", "0007_last_turns")]

    operations = [
        migrations.AddField("watch", "newest_at", models.DateTimeField(null=True)),
        migrations.AddField("watch", "newest_since", models.DateTimeField(null=True)),
    ]
