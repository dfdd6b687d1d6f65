"""The layering: stages never import the pipeline, and detect, crop, embed and index never import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("detect", "crop", "embed", "index")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def starts(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", sorted((ROOT / "stages").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_stages_import_neither_each_other_nor_the_pipeline(path: Path) -> None:
    stage = path.relative_to(ROOT / "stages").parts[0].removesuffix(".py")
    forbidden = ["pipeline"] + ([f"stages.{other}" for other in STAGES if other != stage] if stage in STAGES else [])
    assert not [name for name in imports(path) for package in forbidden if starts(name, package)]


def test_imports_are_found() -> None:
    assert starts("stages.crop.BoxCrop", "stages.crop")
    assert "stages.images" in imports(ROOT / "pipeline" / "pipeline.py")


def test_files_and_packages_are_all_installed() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("stages", "pipeline", "weights")
        for path in (ROOT / package).rglob("*.py")
    }
    assert packages == listed
