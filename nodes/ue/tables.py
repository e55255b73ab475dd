"""The tables of the software UE: what its USIM and its registration must still know, and its tickets, sealed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

from sba.store import key_value_table

METADATA: Final = MetaData()

key_value_table("ue", METADATA)
key_value_table("tickets", METADATA)
