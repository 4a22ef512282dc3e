from django.db import migrations, models

#: The first release that counts: everything up to here is one. A later migration that old code must not work on writes
#: its own number in the same way, and `instances.releases.KNOWN` is raised with it.
WRITE = """
    INSERT INTO instances_release (number, why, at)
    VALUES (1, 'provisioning with ports, turns and a watch', statement_timestamp())
"""


class Migration(migrations.Migration):
    dependencies = [("instances", "0005_orchestration")]

    operations = [
        migrations.CreateModel(
            name="Release",
            fields=[
                ("number", models.PositiveIntegerField(primary_key=True, serialize=False)),
                ("why", models.CharField(max_length=200)),
                ("at", models.DateTimeField()),
            ],
        ),
        migrations.RunSQL(WRITE, "DELETE FROM instances_release WHERE number = 1"),
    ]
