"""The tables, as peewee models. They are bound to no database: each backend has its own."""

from __future__ import annotations

from typing import Any

import msgspec
from peewee import FloatField, IntegerField, Model, TextField

#: The version of these tables (PRAGMA user_version); a file with a higher one is refused.
SCHEMA_VERSION = 1
#: Marks an SQLite file as ours (PRAGMA application_id): "rsrg".
APPLICATION_ID = int.from_bytes(b"rsrg", "big")


class JSONField(TextField):
    """A JSON value as text.

    peewee's own JSONField takes its functions from the one database that its model is bound to.
    """

    def db_value(self, value: Any) -> str:
        return msgspec.json.encode(value).decode()

    def python_value(self, value: str) -> Any:
        return msgspec.json.decode(value)


class Service(Model):
    """One registered service (records.Service)."""

    id = TextField(primary_key=True)
    name = TextField()
    host = TextField()
    port = IntegerField()
    type = TextField(null=True)
    tags = JSONField()
    metadata = JSONField()
    extra = JSONField()
    ttl = FloatField()
    last_heartbeat = IntegerField()


class Event(Model):
    """One entry of the journal (records.Event)."""

    seq = IntegerField(primary_key=True)
    type = TextField()
    service_id = TextField()
    body = TextField()
    token = TextField(null=True)


class Meta(Model):
    """What is said once of the store: its epoch."""

    key = TextField(primary_key=True)
    value = TextField()


TABLES: list[type[Model]] = [Service, Event, Meta]
