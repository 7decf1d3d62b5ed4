"""The tables, as peewee models. They are bound to no database: each backend has its own."""

from __future__ import annotations

from peewee import FloatField, IntegerField, Model, TextField

#: The version of these tables (PRAGMA user_version); a file with a higher one is refused.
SCHEMA_VERSION = 3
#: Marks an SQLite file as ours (PRAGMA application_id): "rsrg".
APPLICATION_ID = int.from_bytes(b"rsrg", "big")


class Service(Model):
    """One registered service (records.Service)."""

    id = TextField(primary_key=True)
    name = TextField()
    host = TextField()
    port = IntegerField()
    type = TextField(null=True)
    #: These three are JSON.
    tags = TextField()
    metadata = TextField()
    extra = TextField()
    ttl = FloatField()
    last_heartbeat = IntegerField()
    registered_by = TextField(null=True)
    #: What subscribers last heard of its health, and why it was so; nothing: passing.
    told = TextField(null=True)
    reason = TextField(null=True)


class Event(Model):
    """One entry of the journal (records.Event)."""

    seq = IntegerField(primary_key=True)
    type = TextField()
    service_id = TextField()
    body = TextField()
    token = TextField(null=True)
    turn = TextField(null=True)


class Meta(Model):
    """What is said once of the store: its epoch, and, as JSON, what is in maintenance."""

    key = TextField(primary_key=True)
    value = TextField()


def columns(table: type[Model]) -> str:
    """Return the names of its columns, in the order above."""
    return ", ".join(table._meta.sorted_field_names)


#: What a file of each earlier version lacks.
UPGRADES: dict[int, list[str]] = {
    1: [
        "ALTER TABLE service ADD COLUMN told TEXT",
        "ALTER TABLE service ADD COLUMN reason TEXT",
        "ALTER TABLE event ADD COLUMN turn TEXT",
    ],
    2: [
        "ALTER TABLE service ADD COLUMN registered_by TEXT",
        # What people said of themselves was in "by". A quote within a text has a backslash.
        """UPDATE meta SET value = replace(value, '"by":', '"says":') WHERE key = 'maintenance'""",
    ],
}

TABLES: list[type[Model]] = [Service, Event, Meta]
