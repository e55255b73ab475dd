"""The tables of the P-CSCF: registrations, sessions, and the key of its flow tokens, sealed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

from sba.store import key_value_table

METADATA: Final = MetaData()

key_value_table("registration", METADATA)
key_value_table("session", METADATA)
key_value_table("key", METADATA)
