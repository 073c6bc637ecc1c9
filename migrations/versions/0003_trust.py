"""Trust that is looked at, what is wanted in a plain table, and one view that says what wins."""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

from region.stream.keys import key_ids, parse_keyring
from shared.errors import SignatureError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _sources()
    _products()
    op.add_column("versions", sa.Column("vouched_by", sa.ARRAY(sa.Text()), nullable=True))
    op.add_column("region", sa.Column("bootloader_source_id", sa.Integer(), nullable=True))
    op.add_column("region", sa.Column("confirmed_epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("region", sa.Column("confirmed_serial", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.create_foreign_key(
        op.f("fk_region_bootloader_source_id"),
        "region",
        "sources",
        ["bootloader_source_id"],
        ["id"],
        ondelete="SET NULL",
    )
    _selections()
    _believe_what_was_believed()
    op.execute(TARGETS)


def _sources() -> None:
    op.drop_constraint("ck_sources_one_way_to_trust", "sources")
    op.drop_constraint("uq_sources_name", "sources")
    op.drop_constraint("uq_sources_priority", "sources")
    for column in (
        sa.Column("keyring_name", sa.Text(), nullable=True),
        sa.Column("keyring_readable", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("vouchers", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("trust_revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("read_revision", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("sources", column)
    op.create_check_constraint(
        op.f("ck_sources_one_way_to_trust"),
        "sources",
        "unsigned = (num_nonnulls(keyring, keyring_path, keyring_name) = 0)"
        " AND num_nonnulls(keyring_path, keyring_name) <= 1",
    )
    for name in ("name", "priority"):
        op.create_index(
            f"uq_sources_{name}", "sources", [name], unique=True, postgresql_where=sa.text("removed_at IS NULL")
        )
    op.add_column(
        "stream_documents",
        sa.Column("vouched_by", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )


def _products() -> None:
    op.add_column("products", sa.Column("image", sa.Text(), nullable=True))
    op.add_column("products", sa.Column("place", sa.Text(), nullable=True))
    op.execute(
        "UPDATE products SET image = CASE WHEN kind = 'bootloader' THEN 'bootloader:' || bootloader_type || ':' || arch"
        "                                 ELSE os || ':' || release || ':' || arch END,"
        "                    place = CASE WHEN kind = 'bootloader' THEN 'bootloader/' || bootloader_type || '/' || arch"
        "                                 ELSE concat_ws('/', os, arch, subarch, release, label) END"
    )
    op.alter_column("products", "image", nullable=False)
    op.alter_column("products", "place", nullable=False)
    op.drop_index("ix_products_image", "products")
    op.create_index("ix_products_image", "products", ["image"])
    op.create_index("ix_products_place", "products", ["place"])
    op.create_index("ix_versions_held", "versions", ["product_id"], postgresql_where=sa.text("held_at IS NOT NULL"))


def _selections() -> None:
    op.alter_column("selections", "source_id", nullable=True)
    for name in ("kernels", "labels"):
        op.add_column("selections", sa.Column(name, sa.ARRAY(sa.Text()), nullable=True))
    op.add_column("selections", sa.Column("keep", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.drop_constraint("uq_selections_source_id_os_release_arch", "selections")
    op.create_unique_constraint(
        op.f("uq_selections_source_id_os_release_arch"),
        "selections",
        ["source_id", "os", "release", "arch"],
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "wanted",
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("os", sa.Text(), nullable=False),
        sa.Column("release", sa.Text(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.Column("kernel", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("named", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_wanted_source_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("source_id", "os", "release", "arch", "kernel", "label", name=op.f("pk_wanted")),
    )
    op.execute(
        "INSERT INTO wanted (source_id, os, release, arch, kernel, label, named)"
        " SELECT DISTINCT products.source_id, products.os, products.release, products.arch, subarch, label, true"
        " FROM products JOIN selections USING (source_id, os, release, arch) WHERE kind <> 'bootloader'"
    )


def _believe_what_was_believed() -> None:
    """What was accepted before was accepted under the trust its source has; nothing lapses by this step.

    Which of a source's keys signed was not written down: all of them count until the next reading, which no ETag cuts
    short, says who did.
    """
    connection = op.get_bind()
    for row in connection.execute(sa.text("SELECT id, url, unsigned, keyring, keyring_path FROM sources")).all():
        vouchers = [f"unsigned:{row.url}"] if row.unsigned else []
        keyring = row.keyring
        if row.keyring_path is not None:
            try:
                keyring = Path(row.keyring_path).read_bytes()
            except OSError:
                keyring = None
        if keyring is not None:
            try:
                keyring = parse_keyring(keyring)
                vouchers = list(key_ids(keyring))
            except SignatureError:
                keyring = row.keyring
        connection.execute(
            sa.text(
                "UPDATE sources SET keyring = :keyring, vouchers = :vouchers, keyring_readable = :readable,"
                " read_revision = CASE WHEN last_read_at IS NULL THEN 0 ELSE 1 END WHERE id = :id"
            ),
            {"id": row.id, "keyring": keyring, "vouchers": vouchers, "readable": bool(vouchers)},
        )
    connection.execute(
        sa.text(
            "UPDATE stream_documents SET vouched_by = sources.vouchers, etag = '' FROM sources"
            " WHERE sources.id = stream_documents.source_id"
        )
    )
    connection.execute(
        sa.text(
            "UPDATE versions SET vouched_by = sources.vouchers FROM products, sources"
            " WHERE products.id = versions.product_id AND sources.id = products.source_id AND held_at IS NOT NULL"
        )
    )
    connection.execute(
        sa.text(
            "UPDATE region SET bootloader_source_id = (SELECT sources.id FROM sources"
            " ORDER BY EXISTS (SELECT FROM products JOIN versions ON versions.product_id = products.id"
            "                  WHERE products.source_id = sources.id AND kind = 'bootloader' AND held_at IS NOT NULL)"
            "          DESC, name = 'maas.io' DESC, priority DESC LIMIT 1)"
        )
    )


TARGETS = """
CREATE VIEW targets AS
WITH vouched AS (
    SELECT documents.source_id, documents.content_id
    FROM sources
    JOIN stream_documents AS documents
        ON documents.source_id = sources.id AND documents.listed AND documents.vouched_by && sources.vouchers
    JOIN stream_documents AS index_of
        ON index_of.source_id = sources.id AND index_of.content_id = '' AND index_of.vouched_by && sources.vouchers
),
wished AS NOT MATERIALIZED (
    SELECT products.id AS product_id, products.image, products.place, products.source_id, products.content_id,
           products.offered AND EXISTS (
               SELECT FROM versions WHERE versions.product_id = products.id AND versions.offered) AS listed,
           pins.version AS pinned, NOT sources.unsigned OR wanted.named AS trusted,
           sources.priority, sources.keyring_readable AND sources.read_revision = sources.trust_revision AS current
    FROM wanted
    JOIN products
        ON products.source_id = wanted.source_id AND products.os = wanted.os AND products.release = wanted.release
        AND products.arch = wanted.arch AND products.subarch = wanted.kernel AND products.label = wanted.label
        AND products.kind <> 'bootloader'
    JOIN sources ON sources.id = products.source_id
    LEFT JOIN pins ON pins.os = products.os AND pins.release = products.release AND pins.arch = products.arch
    UNION ALL
    SELECT products.id, products.image, products.place, products.source_id, products.content_id,
           products.offered AND EXISTS (
               SELECT FROM versions WHERE versions.product_id = products.id AND versions.offered),
           NULL, true, sources.priority,
           sources.keyring_readable AND sources.read_revision = sources.trust_revision
    FROM region
    JOIN products ON products.source_id = region.bootloader_source_id AND products.kind = 'bootloader'
    JOIN sources ON sources.id = products.source_id
    WHERE EXISTS (SELECT FROM selections)
),
winners AS (
    SELECT DISTINCT ON (image) image, source_id
    FROM wished
    WHERE CASE WHEN pinned IS NULL THEN listed
               ELSE EXISTS (SELECT FROM versions
                            WHERE versions.product_id = wished.product_id AND versions.name = wished.pinned)
          END
    ORDER BY image, trusted DESC, priority DESC
),
candidates AS (
    SELECT wished.*, versions.id AS version_id, versions.name AS version, versions.held_at IS NOT NULL AS held,
           wished.listed AND versions.offered AND vouched.source_id IS NOT NULL AS offered
    FROM wished
    JOIN winners ON winners.image = wished.image AND winners.source_id = wished.source_id
    JOIN versions ON versions.product_id = wished.product_id
    LEFT JOIN vouched ON vouched.source_id = wished.source_id AND vouched.content_id = wished.content_id
)
SELECT DISTINCT ON (image, place)
       image, place, source_id, product_id, version_id, version, held, offered, current
FROM candidates
WHERE CASE WHEN pinned IS NULL THEN offered ELSE version = pinned AND (offered OR held) END
ORDER BY image, place, version COLLATE "C" DESC, product_id
"""
