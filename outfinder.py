"""The command ``outfinder``, which also runs where the current project has a ``pipeline.py`` or a ``weights`` folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


class _OwnPackages:
    """Finds outfinder's packages beside this file, whatever comes before them on the path."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of one of outfinder's packages."""
        if path is None and name in ("pipeline", "stages", "weights"):
            return PathFinder.find_spec(name, [str(Path(__file__).parent)], target)
        return None


def main() -> None:
    """Run the command."""
    sys.meta_path.insert(0, _OwnPackages)
    from pipeline.__main__ import main as run  # noqa: PLC0415  only now is it found

    run()


if __name__ == "__main__":
    main()
