"""The tables of the NRF: the registered profiles, and the keys that sign tokens, sealed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

from sba.store import key_value_table

METADATA: Final = MetaData()

key_value_table("profiles", METADATA)
key_value_table("signing_keys", METADATA)
