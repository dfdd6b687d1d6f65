"""Commands run in this process, and files that are not photos."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from pipeline.cli import main

DETECTOR = ("--detector", "stages.testing:FakeDetector")
EMBEDDER = ("--embedder", "stages.testing:FakeEmbedder")


def run(*arguments: object, status: int = 0, stdin: bytes | None = None) -> Result:
    """Run the command, check its exit status, and raise unexpected exceptions."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.stderr
    return result


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def bad_files(folder: Path) -> dict[str, str]:
    """Create every kind of file that is not a photo, and return the reason that is reported for each."""
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("these are words")
    whole = (folder / "a two.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    header = b"IHDR" + struct.pack(">2I5B", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(100))]
    sealed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(sealed))
    (folder / "folder.jpg").mkdir()
    return {
        "zero.jpg": "is empty (0 bytes)",
        "text.jpg": "is not a photo of a known format",
        "cut.jpg": "is truncated",
        "bomb.png": "has 900 megapixels",
        "folder.jpg": "is a folder, not a photo",
    }


def check_bad_lines(results: list[dict[str, Any]], folder: Path, reasons: dict[str, str]) -> None:
    """Check that each bad file has a line, and that the good photos are found as without them."""
    errors = {Path(line["photo"]).name: line for line in results if "error" in line}
    assert errors.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert errors[name].keys() == {"photo", "error"}
        assert errors[name]["photo"] == str(folder / name)
        assert errors[name]["error"].startswith(reason)
    good = {Path(line["photo"]).name: len(line["garments"]) for line in results if "error" not in line}
    assert good == {"a two.jpg": 2, "b none.jpg": 0}
