"""PostgreSQL: the schema (`tables`), the way to it (`connection`), and who is told what changed (`topics`)."""
