"""Reports by exception: what racks lack instead of what they hold, and since when manifests say what they say."""

import base64
import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from shared.wire.manifest import Manifest

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("manifests", sa.Column("sha256", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.alter_column("manifests", "envelope", existing_type=sa.LargeBinary(), nullable=True)
    op.create_table(
        "published_images",
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("image", name=op.f("pk_published_images")),
    )
    op.create_table(
        "rack_images",
        sa.Column("rack_id", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("shown_version", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rack_id"], ["racks.id"], name=op.f("fk_rack_images_rack_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("rack_id", "image", name=op.f("pk_rack_images")),
    )
    op.create_index(op.f("ix_rack_images_image"), "rack_images", ["image"], unique=False)
    op.add_column("racks", sa.Column("knows_sha256", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("racks", sa.Column("ahead", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("racks", sa.Column("report_digest", sa.Text(), server_default=sa.text("''"), nullable=False))
    # Room on every page for the next versions of its rows, so that a report touches no index.
    op.execute("ALTER TABLE racks SET (fillfactor = 80)")
    _carry_over()
    op.drop_column("versions", "held_serial")
    op.drop_index(op.f("ix_rack_files_sha256"), table_name="rack_files")
    op.drop_table("rack_files")


def _carry_over() -> None:
    """What the kept manifests and the racks' last reports say, in the new shape. No signature is looked at here."""
    connection = op.get_bind()
    kept: list[tuple[Manifest, str]] = []
    rows = connection.execute(
        sa.text("SELECT epoch, serial, envelope FROM manifests WHERE envelope IS NOT NULL ORDER BY epoch, serial")
    )
    for row in rows.all():
        payload = base64.b64decode(json.loads(row.envelope)["payload"])
        digest = hashlib.sha256(payload).hexdigest()
        connection.execute(
            sa.text("UPDATE manifests SET sha256 = :digest WHERE (epoch, serial) = (:epoch, :serial)"),
            {"digest": digest, "epoch": row.epoch, "serial": row.serial},
        )
        kept.append((Manifest.parse(payload), digest))
    connection.execute(
        sa.text("""
            UPDATE racks SET knows_sha256 = manifests.sha256 FROM manifests
            WHERE (manifests.epoch, manifests.serial) = (racks.epoch, racks.serial)
        """)
    )
    if not kept:
        return
    newest = kept[-1][0]
    history = [manifest.images() for manifest, _ in kept if manifest.epoch == newest.epoch]
    serials = [manifest.serial for manifest, _ in kept if manifest.epoch == newest.epoch]
    for image, entries in newest.images().items():
        content = _content(entries)
        since = newest.serial
        for serial, images in zip(reversed(serials), reversed(history), strict=True):
            if _content(images.get(image, [])) != content:
                break
            since = serial
        connection.execute(
            sa.text("INSERT INTO published_images (image, version, since, content) VALUES (:i, :v, :s, :c)"),
            {"i": image, "v": max(entry.version for entry in entries), "s": since, "c": content},
        )
    connection.execute(
        sa.text("""
            INSERT INTO rack_images (rack_id, image, shown_version, code)
            SELECT DISTINCT racks.id, given.image, '', ''
            FROM racks CROSS JOIN unnest(CAST(:images AS text[]), CAST(:digests AS text[])) AS given (image, sha256)
            WHERE racks.serial > 0 AND NOT EXISTS (
                SELECT FROM rack_files WHERE rack_files.rack_id = racks.id AND rack_files.sha256 = given.sha256
            )
        """),
        {
            "images": [entry.image for entry in newest.entries],
            "digests": [str(entry.sha256) for entry in newest.entries],
        },
    )


def _content(entries: list[Any]) -> str:
    # As region.publishing.since has it; a migration stays as it was written.
    lines = sorted(f"{entry.path}\0{entry.kind}\0{entry.sha256}\0{entry.size}\n" for entry in entries)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def downgrade() -> None:
    op.add_column("versions", sa.Column("held_serial", sa.BigInteger(), nullable=True))
    op.create_table(
        "rack_files",
        sa.Column("rack_id", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rack_id"], ["racks.id"], name=op.f("fk_rack_files_rack_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("rack_id", "sha256", name=op.f("pk_rack_files")),
    )
    op.create_index(op.f("ix_rack_files_sha256"), "rack_files", ["sha256"], unique=False)
    op.execute("ALTER TABLE racks RESET (fillfactor)")
    for column in ("report_digest", "ahead", "knows_sha256"):
        op.drop_column("racks", column)
    op.drop_table("rack_images")
    op.drop_table("published_images")
    op.execute("DELETE FROM manifests WHERE envelope IS NULL")
    op.alter_column("manifests", "envelope", existing_type=sa.LargeBinary(), nullable=False)
    op.drop_column("manifests", "sha256")
