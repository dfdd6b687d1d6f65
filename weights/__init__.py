"""The shipped checkpoints: load one by name, verified, as tensors and the words that describe it.

``manifest.toml`` names each file, its sha256 and what it is for; ``NAME.md`` beside it is its card. Files are
safetensors: reading one runs no code.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stages.errors import WeightsError
from stages.files import check_regular

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parent
_HEADER_BYTES: Final = 20_000_000
"""A header names tensors: a network of a hundred thousand of them has ten million bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Float32 tensors by parameter name, and the metadata of the file's own header."""

    name: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str

    def describes(self, key: str) -> str:
        """One entry of the metadata.

        Raises:
            WeightsError: the file does not say.
        """
        try:
            return self.metadata[key]
        except KeyError:
            raise WeightsError(f"{self.name} does not say its {key!r}; it was not saved by weights.save") from None


@cache
def manifest() -> dict[str, dict[str, Any]]:
    """What each shipped checkpoint is, by name."""
    return tomllib.loads((FOLDER / "manifest.toml").read_text(encoding="utf-8"))


def record(name: str, sha256: str, summary: str) -> None:
    """Write into the manifest that ``NAME.safetensors`` is shipped, with its sha256; what it says already is replaced."""
    path = FOLDER / "manifest.toml"
    text = path.read_text(encoding="utf-8")
    entry = f'[{name}]\nfile = "{name}.safetensors"\nsha256 = "{sha256}"\nsummary = "{summary}"\n'
    replaced, count = re.subn(rf"^\[{name}\]\n(?:.+\n)+", lambda _: entry, text, flags=re.MULTILINE)
    path.write_text(replaced if count else f"{text}\n{entry}", encoding="utf-8")
    manifest.cache_clear()


def load(name: str) -> Checkpoint:
    """A shipped checkpoint.

    Raises:
        ValueError: there is none of that name.
        WeightsError: its file is missing or its sha256 is not the manifest's.
    """
    try:
        entry = manifest()[name]
    except KeyError:
        raise ValueError(f"no shipped weights are called {name!r}; there are {', '.join(sorted(manifest()))}") from None
    checkpoint = read(FOLDER / entry["file"], name)
    if checkpoint.sha256 != entry["sha256"]:
        raise WeightsError(
            f"{entry['file']} is damaged: sha256 {checkpoint.sha256[:12]}…, the manifest says"
            f" {entry['sha256'][:12]}…; install outfinder again"
        )
    return checkpoint


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Any checkpoint that :func:`save` wrote, or a plain safetensors file.

    Raises:
        WeightsError: the file is missing or not safetensors.
    """
    import torch  # noqa: PLC0415  not needed to list what there is
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        _check_header(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  no mapping
            if strange := [key for key, tensor in tensors.items() if tensor.is_complex()]:
                raise WeightsError(
                    f"weights {path} hold complex numbers ({strange[0][:100]!r}), which no network here has"
                )
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise WeightsError(f"weights {path} are not a safetensors file: {error}") from error
    floats = {
        key: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for key, tensor in tensors.items()
    }
    return Checkpoint(name or path.stem, floats, dict(metadata), sha256)


def _check_header(path: Path) -> None:
    """Refuse by its first bytes what is no safetensors file, or says that it is larger than it is; before all is read.

    Raises:
        OSError: it is no regular file, or cannot be read.
        WeightsError: it is something else.
    """
    status = path.stat()
    check_regular(status)
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:] != b"{" or length > min(_HEADER_BYTES, status.st_size - 8):
        pickled = head[:1] == b"\x80" or head[:4] == b"PK\3\4"
        told = (
            "are a pickle, which could run anything: save them by safetensors"
            if pickled
            else "are not a safetensors file"
        )
        raise WeightsError(f"weights {path} {told}")


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Write tensors in float16 with their description, atomically; returns the file's sha256."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    halves = {
        key: (tensor.detach().to(torch.float16) if tensor.is_floating_point() else tensor.detach()).contiguous()
        for key, tensor in tensors.items()
    }
    partial = path.with_suffix(".partial")
    save_file(halves, partial, metadata=metadata)
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    partial.chmod(0o644)  # safetensors writes for the owner alone
    partial.replace(path)
    return digest
