"""The shipped checkpoints, and reading and writing others: tensors by name with metadata that describes them.

``manifest.toml`` has the file, the sha256 and a summary of each shipped checkpoint; ``NAME.md`` beside it is its card. Files are
safetensors, so that reading one runs no code.
"""

from __future__ import annotations

import hashlib
import os
import pickle
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
_MAX_HEADER_BYTES: Final = 20_000_000
"""The header names the tensors: that of a network of a hundred thousand tensors has ten million bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Float32 tensors by parameter name, and the metadata in the file's header."""

    name: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str

    def describes(self, key: str) -> str:
        """Return one entry of the metadata.

        Raises:
            WeightsError: the file does not have it.
        """
        try:
            return self.metadata[key]
        except KeyError:
            raise WeightsError(f"{self.name} does not say its {key!r}; it was not saved by weights.save") from None


@cache
def manifest() -> dict[str, dict[str, Any]]:
    """Return what ``manifest.toml`` says about each shipped checkpoint, by name."""
    return tomllib.loads((FOLDER / "manifest.toml").read_text(encoding="utf-8"))


def record(name: str, sha256: str, summary: str) -> None:
    """Write a shipped checkpoint ``NAME.safetensors`` into the manifest, or replace its entry."""
    path = FOLDER / "manifest.toml"
    text = path.read_text(encoding="utf-8")
    entry = f'[{name}]\nfile = "{name}.safetensors"\nsha256 = "{sha256}"\nsummary = "{summary}"\n'
    replaced, count = re.subn(rf"^\[{name}\]\n(?:.+\n)+", lambda _: entry, text, flags=re.MULTILINE)
    path.write_text(replaced if count else f"{text}\n{entry}", encoding="utf-8")
    manifest.cache_clear()


def load(name: str) -> Checkpoint:
    """Load a shipped checkpoint.

    Raises:
        ValueError: none has that name.
        WeightsError: its file is missing, or damaged according to the manifest's sha256.
    """
    try:
        entry = manifest()[name]
    except KeyError:
        raise ValueError(f"no shipped weights are called {name!r}; there are {', '.join(sorted(manifest()))}") from None
    checkpoint = read(FOLDER / entry["file"], name)
    if checkpoint.sha256 != entry["sha256"]:
        raise WeightsError(
            f"{entry['file']} is damaged: its sha256 is {checkpoint.sha256[:12]}…, the manifest has"
            f" {entry['sha256'][:12]}…; install outfinder again"
        )
    return checkpoint


def read(path: Path | str, name: str | None = None) -> Checkpoint:
    """Read a checkpoint that :func:`save` wrote, or any safetensors file.

    Raises:
        WeightsError: the file is missing, not safetensors, or its values cannot be those of a trained network.
    """
    import torch  # noqa: PLC0415  not needed to list what there is
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    path = Path(path)
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise WeightsError(f"weights {path} cannot be read: safetensors wants a path in UTF-8; rename it") from error
    try:
        _check_header(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  not a mapping
        if complex_names := [key for key, tensor in tensors.items() if tensor.is_complex()]:
            raise WeightsError(
                f"weights {path} hold complex numbers ({complex_names[0][:100]!r}), which no network here has"
            )
        floats = {key: tensor.to(torch.float32) for key, tensor in tensors.items() if tensor.is_floating_point()}
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise WeightsError(f"weights {path} are not a safetensors file: {error}") from error
    _check_values(path, floats)
    return Checkpoint(name or path.stem, tensors | floats, dict(metadata), sha256)


def save(path: Path | str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Write tensors in float16 with their metadata, atomically, and return the file's sha256.

    Bytes in the metadata that are not UTF-8, as in a file name, become escapes.

    Raises:
        WeightsError: a value is not finite, or not in float16.
    """
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    path = Path(path)
    metadata = {key: value.encode("utf-8", "backslashreplace").decode() for key, value in metadata.items()}
    halves = {
        key: (tensor.detach().to(torch.float16) if tensor.is_floating_point() else tensor.detach()).contiguous()
        for key, tensor in tensors.items()
    }
    _check_values(path, {key: tensor for key, tensor in halves.items() if tensor.is_floating_point()})
    partial = path.with_suffix(".partial")
    save_file(halves, partial, metadata=metadata)
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    partial.chmod(0o644)  # safetensors writes for the owner alone
    partial.replace(path)
    return digest


def read_torchvision(entry: Any) -> dict[str, Tensor]:
    """Return torchvision's tensors of a member of its weights enums, downloaded into torch's cache on first use.

    The cached file is compared with the sha256 in its name each time, and nothing but tensors is unpickled.

    Raises:
        OSError: it cannot be downloaded.
        WeightsError: the cached file is incomplete, damaged or not torchvision's.
    """
    import torch  # noqa: PLC0415

    path = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    known = re.search(r"-([0-9a-f]{8,})\.", path.name)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(entry.url, os.fspath(path), known and known[1], progress=False)
        check_regular(path.stat())
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if known and not sha256.startswith(known[1]):
            raise WeightsError(f"{path} is incomplete or damaged; delete it, and it is downloaded again")
        tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise WeightsError(f"{path} does not hold tensors alone; delete it, and it is downloaded again") from error
    except RuntimeError as error:  # a download that fails its checksum, or a broken archive
        raise WeightsError(f"torchvision's weights {path.name} are damaged: {error}") from error
    return tensors


def _check_header(path: Path) -> None:
    """Refuse, by its first bytes, a file that is not safetensors or claims to be larger than it is.

    Raises:
        OSError: it is not a regular file, or cannot be read.
        WeightsError: it is something else.
    """
    status = path.stat()
    check_regular(status)
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:] != b"{" or length > min(_MAX_HEADER_BYTES, status.st_size - 8):
        if head[:1] == b"\x80" or head[:4] == b"PK\3\4":
            raise WeightsError(f"weights {path} are a pickle, which could run anything: save them as safetensors")
        raise WeightsError(f"weights {path} are not a safetensors file")


def _check_values(path: Path, floats: dict[str, Tensor]) -> None:
    """Refuse weights that are not finite, or all zero: a network of them would give confident answers."""
    for key, tensor in floats.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"weights {path} hold values that are not finite in float16 or float32 ({key[:100]!r})")
    matrices = [tensor for tensor in floats.values() if tensor.ndim > 1]
    if matrices and not any(tensor.any() for tensor in matrices):
        raise WeightsError(f"weights {path} are all zero; they are not those of a trained network")
