"""Where a tenant is called back when a request does not say, and what callbacks are signed with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add both."""
    op.add_column("tenants", sa.Column("callback_url", sa.Text, nullable=True))
    op.add_column("tenants", sa.Column("callback_events", sa.Text, nullable=True))
    op.create_table(
        "webhook_secrets",
        sa.Column("id", sa.String(8), primary_key=True),
        sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=True),
        sa.Column("revoked_at", sa.BigInteger, nullable=True),
    )
    op.create_index("ix_webhook_secrets_tenant_id", "webhook_secrets", ["tenant_id"])


def downgrade() -> None:
    """Remove both."""
    op.drop_table("webhook_secrets")
    op.drop_column("tenants", "callback_events")
    op.drop_column("tenants", "callback_url")
