"""The tables of the KMS. On the path of a request rows are written and found by primary key; nothing is scanned."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

from sba.store import key_value_table

METADATA: Final = MetaData()

key_value_table("kms_secret", METADATA)

_ROW = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only for a column that it calls INTEGER."""

TICKET_KEYS: Final = Table(
    "kms_ticket_key",
    METADATA,
    Column("key_id", String(64), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("life_s", Float, nullable=False),
    Column("forget_at", Float),
)
"""Ticket protection keys, sealed. `life_s`: of the longest ticket under it; `forget_at`: empty while it may seal."""

SEEN: Final = Table(
    "kms_seen",
    METADATA,
    Column("digest", LargeBinary, primary_key=True),
    Column("forget_at", Float, nullable=False),
    Index("kms_seen_forget", "forget_at"),
)
"""Digests of the authenticated messages whose T lies within the skew (RFC 3830 5.4)."""

USES: Final = Table(
    "kms_use",
    METADATA,
    Column("ticket_id", String(64), primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("forget_at", Float, nullable=False),
    Index("kms_use_forget", "forget_at"),
)
"""For which TRANSFER_INIT a single-use ticket was resolved."""

AUDIT: Final = Table(
    "kms_audit",
    METADATA,
    Column("row", _ROW, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("operation", String(16), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("party", String(512), nullable=False),
    Column("responders", Text, nullable=False),
    Column("ticket_id", String(64), nullable=False),
    Column("not_before", Float, nullable=False),
    Column("not_after", Float, nullable=False),
    Column("tpk_id", String(64), nullable=False),
    Column("peer_kms", String(256), nullable=False),
    Column("forget_at", Float, nullable=False),
    Index("kms_audit_party", "party", "row"),
    Index("kms_audit_forget", "forget_at"),
)
"""What was granted and refused to whom: no keys."""
