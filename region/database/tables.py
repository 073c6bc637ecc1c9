"""The catalogue's schema. Promises that must hold between rows are constraints here, not code elsewhere."""

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _text(name: str, *, default: str | None = None, nullable: bool = False) -> Column[str]:
    return Column(name, Text, nullable=nullable, server_default=None if default is None else text(f"'{default}'"))


def _flag(name: str, *, default: bool) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("true" if default else "false"))


def _bytes(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


# The one row about the region itself. `bootloader_source_id` is the one source that bootloaders come from;
# `confirmed_…` the last manifest of which an operator confirmed that it takes much away. `epoch` is the time in
# seconds of this database's birth, or of its last new epoch: a region whose database was made anew outranks what racks
# have seen before. `serial` counts the manifests of the epoch. `tidied_at` is when housekeeping began last: whoever
# moves it on has won the hour.
# `url` is where racks are told to reach the region; empty: where each enrolled.
# `secrets_fingerprint` names the key that seals `…_credentials`, here and in `sources` (`region.secrets`).
region = Table(
    "region",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    _text("fingerprint"),
    Column("epoch", BigInteger, nullable=False),
    _bytes("serial"),
    _moment("created_at"),
    _moment("default_selected_at", nullable=True),
    _text("proxy", nullable=True),
    _bytes("selection_revision"),
    Column(
        "bootloader_source_id",
        Integer,
        ForeignKey("sources.id", ondelete="SET NULL", name="fk_region_bootloader_source_id"),
        nullable=True,
    ),
    _bytes("confirmed_epoch"),
    _bytes("confirmed_serial"),
    Column("retention_days", Integer, nullable=False, server_default=text("400")),
    _bytes("settings_revision"),
    _moment("tidied_at", nullable=True),
    _text("proxy_credentials", nullable=True),
    _text("secrets_fingerprint", nullable=True),
    _text("url", nullable=True),
    CheckConstraint("id = 1", name="single_row"),
    CheckConstraint("retention_days BETWEEN 1 AND 3650", name="retention_days"),
)

# The hourly sync: due when enabled and `next_run_at` has come. Whoever moves `next_run_at` on has won the run.
sync_schedule = Table(
    "sync_schedule",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    _flag("enabled", default=True),
    _moment("last_run_at", nullable=True),
    _moment("next_run_at"),
    Column("interval_seconds", Integer, nullable=False, server_default=text("3600")),
    CheckConstraint("id = 1", name="single_row"),
    CheckConstraint("interval_seconds BETWEEN 300 AND 604800", name="interval"),
)

# Trust: `keyring` holds the bytes that count, whatever they came from (`keyring_path`, a shipped keyring's name, or a
# request). `vouchers` are the primary fingerprints in it, or `unsigned:<url>`. `trust_revision` rises when URL, mode or
# vouchers change, and when the source is disabled; `read_revision` is that of the last accepted reading. Until
# `older_accepted_until` one reading may bring documents older than those accepted before. After `stale_after_days`
# (0: never) all are warned of their age. `last_read_at` is when a reading ended last, `last_good_at` when one did
# without an error. One that is not `enabled` is not read. A removed source stays until nothing is held of it. URLs
# carry no user name and no password: these are sealed, in `…_credentials`.
sources = Table(
    "sources",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    _text("name"),
    _text("url"),
    Column("keyring", LargeBinary, nullable=True),
    _text("keyring_path", nullable=True),
    _flag("unsigned", default=False),
    Column("priority", Integer, nullable=False),
    _text("proxy", nullable=True),
    _text("ca_bundle", nullable=True),
    _moment("created_at"),
    _moment("last_read_at", nullable=True),
    _text("error_code", default=""),
    _text("error", default=""),
    Column("skipped", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    _text("keyring_name", nullable=True),
    _flag("enabled", default=True),
    _flag("keyring_readable", default=True),
    Column("vouchers", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("trust_revision", BigInteger, nullable=False, server_default=text("1")),
    _bytes("read_revision"),
    _moment("removed_at", nullable=True),
    _text("url_credentials", nullable=True),
    _text("proxy_credentials", nullable=True),
    _moment("older_accepted_until", nullable=True),
    Column("stale_after_days", Integer, nullable=False, server_default=text("30")),
    _moment("last_good_at", nullable=True),
    CheckConstraint("stale_after_days BETWEEN 0 AND 3650", name="stale_after_days"),
    CheckConstraint(
        "unsigned = (num_nonnulls(keyring, keyring_path, keyring_name) = 0)"
        " AND num_nonnulls(keyring_path, keyring_name) <= 1",
        name="one_way_to_trust",
    ),
    Index("uq_sources_name", "name", unique=True, postgresql_where=text("removed_at IS NULL")),
    Index("uq_sources_priority", "priority", unique=True, postgresql_where=text("removed_at IS NULL")),
)

# What was accepted of each source's documents: `updated` never falls while one of `vouched_by`, all good signers, is a
# voucher (I3). The index is the row with content_id ''.
stream_documents = Table(
    "stream_documents",
    metadata,
    Column("source_id", Integer, ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    _text("content_id"),
    _text("path"),
    _moment("updated"),
    _text("etag", default=""),
    Column("skipped", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    _flag("listed", default=True),
    Column("vouched_by", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    PrimaryKeyConstraint("source_id", "content_id"),
)

# `image` is what an operator can talk about (`ubuntu:noble:amd64`, `bootloader:uefi:amd64`), `place` the product's
# directory in a rack's tree (`shared.layout`). `offered`: the last accepted reading lists it.
products = Table(
    "products",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("source_id", Integer, ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    _text("content_id"),
    _text("name"),
    _text("kind"),
    _text("os"),
    _text("release"),
    _text("arch"),
    _text("subarch"),
    _text("label"),
    _text("title"),
    _text("version"),
    _text("codename"),
    Column("support_eol", Date, nullable=True),
    _text("bootloader_type", nullable=True),
    _flag("is_ga", default=False),
    _flag("offered", default=True),
    _text("image"),
    _text("place"),
    UniqueConstraint("source_id", "name"),
    Index("ix_products_image", "image"),
    Index("ix_products_place", "place"),
)

# `held_at` set: every file of the version is stored and the manifest names it; `vouched_by` signed it, by the last
# reading that offered it.
# Version names order as bytes.
versions = Table(
    "versions",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("product_id", BigInteger, ForeignKey("products.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text(collation="C"), nullable=False),
    _flag("offered", default=True),
    _moment("held_at", nullable=True),
    Column("vouched_by", ARRAY(Text), nullable=True),
    UniqueConstraint("product_id", "name"),
    Index("ix_versions_held", "product_id", postgresql_where=text("held_at IS NOT NULL")),
)

items = Table(
    "items",
    metadata,
    Column("version_id", BigInteger, ForeignKey("versions.id", ondelete="CASCADE"), nullable=False),
    _text("key"),
    _text("ftype"),
    _text("path"),
    _text("sha256"),
    Column("size", BigInteger, nullable=False),
    PrimaryKeyConstraint("version_id", "key"),
    CheckConstraint("size >= 0", name="size"),
    Index(None, "sha256"),
)

# A row says: the store holds exactly this file (I1). `unneeded_since` runs while no version wants it.
files = Table(
    "files",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    _moment("stored_at"),
    _moment("unneeded_since", nullable=True),
)

# A row says: nobody may fetch, record or count on this file until its bytes are gone, and the row after them. A digest
# is in `files` or here, never in both. What a crash leaves here is finished by the next prune.
leaving_files = Table(
    "leaving_files",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    _moment("since"),
)

# A wish, as it was said: `release` is a name or a rule for releases, `arch` a name or `*`
# (`region.catalogue.patterns`). `source_id` empty: whichever source wins; set: this one. `kernels` and `labels` empty:
# all of them. `keep` is reserved for how many replaced versions stay: nothing reads it yet.
selections = Table(
    "selections",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("source_id", Integer, ForeignKey("sources.id", ondelete="CASCADE"), nullable=True),
    _text("os"),
    _text("release"),
    _text("arch"),
    _moment("created_at"),
    Column("kernels", ARRAY(Text), nullable=True),
    Column("labels", ARRAY(Text), nullable=True),
    Column("keep", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("source_id", "os", "release", "arch", postgresql_nulls_not_distinct=True),
)

# The images that each selection means now (`region.catalogue.rules`); one that names an image means it.
meant = Table(
    "meant",
    metadata,
    Column("selection_id", Integer, ForeignKey("selections.id", ondelete="CASCADE"), nullable=False),
    _text("os"),
    _text("release"),
    _text("arch"),
    PrimaryKeyConstraint("selection_id", "os", "release", "arch"),
    Index(None, "os", "release", "arch"),
)

# What the selections come to: one row for each product they match (`region.catalogue.wanted`). `named`: a selection
# names this source. The view `targets` (`region.catalogue.targets`) says what wins.
wanted = Table(
    "wanted",
    metadata,
    Column("source_id", Integer, ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    _text("os"),
    _text("release"),
    _text("arch"),
    _text("kernel"),
    _text("label"),
    Column("named", Boolean, nullable=False),
    PrimaryKeyConstraint("source_id", "os", "release", "arch", "kernel", "label"),
)

# An image pinned to a version does not move on.
pins = Table(
    "pins",
    metadata,
    _text("os"),
    _text("release"),
    _text("arch"),
    _text("version"),
    _moment("created_at"),
    PrimaryKeyConstraint("os", "release", "arch"),
)

# At most one import waits and at most one runs. The runner holds a lease and writes with its `fence` number only.
imports = Table(
    "imports",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _text("trigger"),
    _text("requested_by"),
    _moment("requested_at"),
    Column("scope", ARRAY(Text), nullable=True),
    _text("state", default="queued"),
    _moment("started_at", nullable=True),
    _moment("finished_at", nullable=True),
    _flag("cancel_requested", default=False),
    _text("lease_owner", nullable=True),
    _moment("lease_until", nullable=True),
    _bytes("fence"),
    _bytes("bytes_total"),
    _bytes("bytes_done"),
    _text("error_code", default=""),
    _text("error", default=""),
    _moment("retry_at", nullable=True),
    _bytes("tries"),
    Column("source_id", Integer, nullable=True),
    Column("stopped", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
    CheckConstraint("trigger IN ('schedule', 'operator', 'selection', 'healing', 'retry')", name="trigger"),
    Index("uq_imports_queued", "state", unique=True, postgresql_where=text("state = 'queued'")),
    Index("uq_imports_running", "state", unique=True, postgresql_where=text("state = 'running'")),
    Index("ix_imports_retry", "retry_at", postgresql_where=text("retry_at IS NOT NULL")),
)

import_images = Table(
    "import_images",
    metadata,
    Column("import_id", BigInteger, ForeignKey("imports.id", ondelete="CASCADE"), nullable=False),
    _text("os"),
    _text("release"),
    _text("arch"),
    _bytes("bytes_total"),
    _bytes("bytes_done"),
    _text("error_code", default=""),
    _text("error", default=""),
    PrimaryKeyConstraint("import_id", "os", "release", "arch"),
    Index("ix_import_images_image", "os", "release", "arch", text("import_id DESC")),
)

# The manifests that were published; the greatest (epoch, serial) is the current one. The signed envelopes of the last
# few are kept, the digest of every payload: by it a rack says which manifest it knows.
manifests = Table(
    "manifests",
    metadata,
    Column("epoch", BigInteger, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("envelope", LargeBinary, nullable=True),
    _moment("created_at"),
    _text("sha256", default=""),
    PrimaryKeyConstraint("epoch", "serial"),
)

# What the current manifest says of each image, and the serial since which manifests of its epoch say so. `content` is
# a digest over paths, kinds, digests and sizes: a version may be renamed without anything for racks to do.
published_images = Table(
    "published_images",
    metadata,
    Column("image", Text, primary_key=True),
    _text("version"),
    Column("since", BigInteger, nullable=False),
    _text("content"),
)

# `epoch`, `serial` and `knows_sha256` are the manifest that the rack knows; `ahead`: it is none of ours.
# `report_digest` is of what the last report said, so that one that says nothing new costs one UPDATE. That stays within
# a page (HOT) only while no index covers a column it writes: give none to `last_seen_at` or what else reports change.
# `request_sequence` is the greatest of the rack's requests that changed something: none counts twice.
racks = Table(
    "racks",
    metadata,
    Column("id", Text, primary_key=True),
    _text("name"),
    _text("public_key"),
    _moment("enrolled_at"),
    _moment("last_seen_at", nullable=True),
    _text("address", default=""),
    _text("version", default=""),
    _bytes("epoch"),
    _bytes("serial"),
    _text("knows_sha256", default=""),
    _flag("ahead", default=False),
    _bytes("report_sequence"),
    _text("report_digest", default=""),
    _bytes("request_sequence"),
    _bytes("bytes_left"),
    _bytes("bytes_free"),
    _text("error_code", default=""),
    _text("error", default=""),
    UniqueConstraint("name"),
    UniqueConstraint("public_key"),
)

# Exceptions: the images of the manifest it knows that a rack does not show. A rack that is whole has no row here.
rack_images = Table(
    "rack_images",
    metadata,
    Column("rack_id", Text, ForeignKey("racks.id", ondelete="CASCADE"), nullable=False),
    _text("image"),
    _text("shown_version"),
    _text("code"),
    PrimaryKeyConstraint("rack_id", "image"),
    Index(None, "image"),
)

# Keys of racks that were removed. Such a key never enrols again; `bootferry-rack enrol --again` makes another one.
barred_keys = Table(
    "barred_keys",
    metadata,
    Column("public_key", Text, primary_key=True),
    _text("rack_name"),
    _moment("barred_at"),
)

# The keys this region had, by fingerprint (`before`), in the order of `number`: each has signed the `envelope` that
# names the key after it (`shared.wire.succession`). A key is left once, for one other.
successions = Table(
    "successions",
    metadata,
    Column("before", Text, primary_key=True),
    Column("number", BigInteger, Identity(always=True), nullable=False),
    _text("public_key"),
    _text("envelope"),
    _moment("made_at"),
)

# Keyed by the fingerprint of the token's public key; the secret is nowhere. `uses_left` is spent under the row's lock.
enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    _text("public_key"),
    _moment("created_at"),
    _moment("expires_at"),
    Column("uses_left", Integer, nullable=False),
    _text("made_by", default=""),
    CheckConstraint("uses_left >= 0", name="uses_left"),
)

operator_tokens = Table(
    "operator_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    _text("name"),
    _text("role"),
    _text("secret_sha256"),
    _moment("created_at"),
    _moment("expires_at", nullable=True),
    _moment("last_used_at", nullable=True),
    CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="role"),
)

# A browser's log-in. The cookie's secret is stored hashed, as tokens are; a session ends with its token.
sessions = Table(
    "sessions",
    metadata,
    Column("secret_sha256", Text, primary_key=True),
    Column("token_id", Text, ForeignKey("operator_tokens.id", ondelete="CASCADE"), nullable=False),
    _moment("created_at"),
    _moment("last_used_at"),
)

# Who changed what. Rows are never changed; `subject` names the thing, like `settings` or `token:<id>`.
activity = Table(
    "activity",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _moment("at"),
    _text("who"),
    _text("address"),
    _text("subject", default=""),
    _text("action"),
    _text("sentence"),
    Column("before", JSON(none_as_null=True), nullable=True),
    Column("after", JSON(none_as_null=True), nullable=True),
    Index("ix_activity_subject_id", "subject", text("id DESC")),
)
