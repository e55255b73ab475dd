"""The tables of the HSS: sequence numbers of the AKA vectors, and which S-CSCF serves a subscriber."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

from sba.store import key_value_table

METADATA: Final = MetaData()

key_value_table("sequence", METADATA)
key_value_table("assignment", METADATA)
