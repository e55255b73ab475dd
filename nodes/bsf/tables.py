"""The tables of the BSF: bootstraps by B-TID, Ks sealed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

from sba.store import key_value_table

METADATA: Final = MetaData()

key_value_table("bootstrap", METADATA)
