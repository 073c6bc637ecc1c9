"""What a folder may do beyond what import-linter can see."""

import ast
from pathlib import Path

import pytest

API = Path(__file__).parents[2] / "region" / "api"
ASKING = {"execute", "scalar", "scalars", "stream", "exec_driver_sql", "text"}


@pytest.mark.parametrize("path", sorted(API.glob("*.py")), ids=lambda path: path.name)
def test_a_route_holds_no_sql(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        f"{node.module}.{name.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
        for name in node.names
    }
    assert imported <= {"sqlalchemy.ext.asyncio.AsyncConnection"}, "only to say what is passed on"
    tables = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "region.database.tables"
    ]
    assert not tables
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    assert not called & ASKING, "move it to a function of the noun, or to an act"
