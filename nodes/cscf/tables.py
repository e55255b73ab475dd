"""The tables of the CSCF: registrations, subscriptions to the reg event, and the key of its route tokens, sealed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

from sba.store import key_value_table

METADATA: Final = MetaData()

key_value_table("registration", METADATA)
key_value_table("subscription", METADATA)
key_value_table("key", METADATA)
