"""The latest import of each image, by index: a list of images must not read a year of imports."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_import_images_image", "import_images", ["os", "release", "arch", sa.text("import_id DESC")])


def downgrade() -> None:
    op.drop_index("ix_import_images_image", table_name="import_images")
