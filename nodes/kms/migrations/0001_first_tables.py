"""The first tables; those that releases without migrations made stay as they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them where they are missing."""
    op.create_table(
        "kms_audit",
        sa.Column("row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("operation", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("party", sa.String(length=512), nullable=False),
        sa.Column("responders", sa.Text(), nullable=False),
        sa.Column("ticket_id", sa.String(length=64), nullable=False),
        sa.Column("not_before", sa.Float(), nullable=False),
        sa.Column("not_after", sa.Float(), nullable=False),
        sa.Column("tpk_id", sa.String(length=64), nullable=False),
        sa.Column("peer_kms", sa.String(length=256), nullable=False),
        sa.Column("forget_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("row"),
        if_not_exists=True,
    )
    op.create_index("kms_audit_forget", "kms_audit", ["forget_at"], if_not_exists=True)
    op.create_index("kms_audit_party", "kms_audit", ["party", "row"], if_not_exists=True)
    op.create_table(
        "kms_seen",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("forget_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
        if_not_exists=True,
    )
    op.create_index("kms_seen_forget", "kms_seen", ["forget_at"], if_not_exists=True)
    op.create_table(
        "kms_ticket_key",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", sa.Float(), nullable=False),
        sa.Column("life_s", sa.Float(), nullable=False),
        sa.Column("forget_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("key_id"),
        if_not_exists=True,
    )
    op.create_table(
        "kms_use",
        sa.Column("ticket_id", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("forget_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("ticket_id"),
        if_not_exists=True,
    )
    op.create_index("kms_use_forget", "kms_use", ["forget_at"], if_not_exists=True)
    op.create_table(
        "kv_kms_secret",
        sa.Column("key", sa.String(length=512), nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("key"),
        if_not_exists=True,
    )
