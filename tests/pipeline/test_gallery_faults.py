"""What becomes of a gallery when things go wrong; see gallery_faults.py for the doing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_gallery import new, row, vectors

from pipeline.gallery import Gallery, arrays, searcher, storage, writing
from pipeline.gallery.arrays import FileArrays, write_arrays
from pipeline.integrity import state, verify
from stages.errors import GalleryCorrupt, GalleryError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and signals are POSIX's")
HERE = Path(__file__).parent


def fault(kind: str, folder: Path, *more: str) -> Any:
    script = HERE / "gallery_faults.py"
    done = subprocess.run([sys.executable, script, kind, folder, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_save_killed_at_any_step_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    told = fault("kills", tmp_path)
    found = told["found"]
    assert set(found) == {"old", "new"}
    assert found == sorted(found, reverse=True)  # old up to the rename, new from then on
    assert found.count("old") > 40
    assert found.count("new") >= 3
    assert not [name for name in told["left"] if "partial" in name or ".part" in name]


def check_damage(told: dict[str, Any]) -> None:
    assert told["after"] == 0
    for name, results in told["results"].items():
        wrong = {what: status for what, status in results.items() if status not in (0, 3)}
        assert not wrong, name
    typed = {name for name, results in told["results"].items() if 3 in results.values()}
    roles = {name.split("-")[0] for name in told["results"]}
    assert roles == {"graph", "manifest.json", "manifest", "removed", "rows", "vectors"}
    needed = {"removed", "rows", "vectors"}  # others are made anew, or read from a copy
    assert {name.split("-")[0] for name in typed} == needed
    for name, results in told["results"].items():
        if name.split("-")[0] in ("vectors", "rows", "removed"):
            assert set(results.values()) == {3}, name


def test_damage_to_any_file_is_told_or_does_no_harm(tmp_path: Path) -> None:
    check_damage(fault("damage", tmp_path))


@pytest.mark.slow
def test_damage_to_any_byte_is_told_or_does_no_harm(tmp_path: Path) -> None:
    check_damage(fault("damage", tmp_path, "every"))


def test_a_full_disk_or_a_read_only_folder_changes_nothing(tmp_path: Path) -> None:
    told = fault("full", tmp_path)
    assert len(told) >= 3
    assert all("nothing was changed" in message or "cannot be written" in message for message in told), told


def test_readers_see_whole_generations_while_a_writer_saves(tmp_path: Path) -> None:
    assert fault("readers", tmp_path) == [0, 0, 0]


def test_a_second_writer_is_told_who_holds_the_gallery(tmp_path: Path) -> None:
    hold = "import sys, time, pathlib; from pipeline.gallery import writing\n"
    hold += "with writing(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "g"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        told = rf"being written by process {holder.pid} on .+ since 20..-..-..T..:..:..\+00:00; wait"
        with pytest.raises(GalleryError, match=told), writing(tmp_path / "g"):
            pass
        holder.communicate("")
    gallery = new(tmp_path / "g")
    with writing(tmp_path / "g"), writing(tmp_path / "g"):  # whoever holds it may hold it again
        gallery.add([row("a", "1")], vectors(1))
        gallery.save()
    assert sorted(path.suffix for path in (tmp_path / "g").iterdir()) == ["", *[".json"] * 2, *[".safetensors"] * 2]


def test_a_save_never_overwrites_what_someone_else_saved(tmp_path: Path) -> None:
    mine = new(tmp_path / "g")
    yours = Gallery.open(tmp_path / "g")
    mine.add([row("a", "1")], vectors(1))
    yours.add([row("b", "2")], vectors(2))
    yours.save()
    with pytest.raises(GalleryError, match="written by someone else since it was opened"):
        mine.save()
    assert Gallery.open(tmp_path / "g").items == ["b"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"format": 2}', '{"format": 2, "sha256": 3}', "\xff", "[" * 100_000, '{"format": 1, "files": {}}'],
)
def test_a_manifest_that_makes_no_sense_is_told(tmp_path: Path, content: str) -> None:
    new(tmp_path / "g")
    for name in ("manifest.json", "manifest-copy.json"):
        (tmp_path / "g" / name).write_text(content, encoding="latin-1")
    with pytest.raises(GalleryError, match=r"manifest\.json is damaged|index the catalogue again"):
        Gallery.open(tmp_path / "g")


def test_a_damaged_manifest_is_read_from_its_copy_and_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gallery = new(tmp_path / "g")
    gallery.add([row("a", "1")], vectors(1))
    gallery.save()
    assert verify(tmp_path / "g") == []
    for name in ("manifest.json", "manifest-copy.json"):
        path = tmp_path / "g" / name
        whole = path.read_bytes()
        for harmed in (
            whole.replace(b'"format": 2', b'"format": 3'),
            whole[:-9],
            whole.replace(b"vectors-2", b"vectors-1"),
        ):
            path.write_bytes(harmed)
            caplog.clear()
            assert Gallery.open(tmp_path / "g").items == ["a"]
            assert ("its copy is read, of generation" in caplog.text) == (name == "manifest.json")
            (problem,) = verify(tmp_path / "g")
            assert f"{name} is damaged" in problem
        Gallery.open(tmp_path / "g").rebuild()
        assert verify(tmp_path / "g") == []


def test_a_lost_manifest_is_read_from_its_copy_and_nothing_is_made_over_it(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    gallery.add([row("a", "1")], vectors(1))
    gallery.save()
    (tmp_path / "g" / "manifest.json").unlink()
    with pytest.raises(GalleryError, match="already"):
        new(tmp_path / "g")
    (problem,) = verify(tmp_path / "g")
    assert "manifest.json is missing" in problem
    reopened = Gallery.open(tmp_path / "g")
    assert reopened.items == ["a"]
    reopened.rebuild()
    assert verify(tmp_path / "g") == []


def test_the_copy_of_a_manifest_names_a_whole_state_though_its_save_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when the new manifest was current and the copy still the old one."""
    gallery = new(tmp_path / "g")
    gallery.add([row("a", "1")], vectors(1))
    gallery.save()
    write = storage._write_manifest

    def killed(folder: Path, manifest: storage.Manifest, name: str) -> None:
        if name == storage.COPY:
            raise KeyboardInterrupt
        write(folder, manifest, name)

    monkeypatch.setattr(storage, "_write_manifest", killed)
    gallery.add([row("b", "2")], vectors(2))
    with pytest.raises(KeyboardInterrupt):
        gallery.save()
    assert Gallery.open(tmp_path / "g").items == ["a", "b"]
    assert verify(tmp_path / "g") == []
    (tmp_path / "g" / "manifest.json").write_bytes(b"{")
    assert Gallery.open(tmp_path / "g").items == ["a"]


def test_a_manifest_cannot_name_files_elsewhere() -> None:
    with pytest.raises(ValueError, match="outside"):
        arrays.StoredFile("../secret", 1, "00")


@pytest.fixture
def with_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gallery of 40 photos, which has an index file."""
    monkeypatch.setattr(searcher, "TAIL", 10)
    monkeypatch.setattr(searcher, "WALK", 0)
    gallery = new(tmp_path / "g", "hnsw")
    gallery.add([row(f"i{number}", f"p{number}") for number in range(40)], vectors(*range(40)))
    gallery.save()
    return tmp_path / "g"


@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
@pytest.mark.parametrize("role", ["graph-2.bin", "graph-ids-2.safetensors"])
def test_a_damaged_index_is_told_and_made_anew(
    with_index: Path, role: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_index / role
    data = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes(data[:-2] if harm == "cut" else data[:200] + bytes([data[200] ^ 4]) + data[201:])
    (problem,) = verify(with_index)
    assert "outfinder gallery rebuild" in problem
    gallery = Gallery.open(with_index)
    assert [match.item for match in gallery.search(vectors(7), k=1, min_similarity=0.99)[0]] == ["i7"]
    assert "made anew in memory" in caplog.text
    assert role in caplog.text
    Gallery.open(with_index).rebuild()
    assert verify(with_index) == []
    assert Gallery.open(with_index).index() is not None


def test_leftovers_of_an_unfinished_save_are_told_and_deleted_by_the_next(with_index: Path) -> None:
    (with_index / "vectors-3.safetensors").write_bytes(b"cut sho")
    (with_index / "vectors-3.txt").write_bytes(b"mine")
    assert verify(with_index) == []
    assert "generation 2; 1 files of an unfinished save" in state(with_index)
    gallery = Gallery.open(with_index)
    gallery.remove(["i3"])
    gallery.save()
    assert "unfinished" not in state(with_index)
    assert (with_index / "vectors-3.txt").exists()


def test_chunks_are_verified_when_they_are_touched_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "CHUNK", 1024)
    whole = np.arange(4096, dtype=np.int64)
    stored = write_arrays(tmp_path / "a.safetensors", {"ids": whole, "text": np.frombuffer(b"abc", np.uint8)})
    data = bytearray((tmp_path / "a.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.safetensors").write_bytes(data)
    file = FileArrays(tmp_path, stored)
    assert file.part("ids", 0, 1000).tolist() == list(range(1000))
    assert file.take("ids", np.array([5, 4000, 3])).tolist() == [5, 4000, 3]
    assert file.part("text").tobytes() == b"abc"
    assert file.slices("text", np.array([1, 3, 0, 0]), np.array([3, 3, 0, 2])) == [b"bc", b"", b"", b"ab"]
    for touch in (file.verify, lambda: file.part("ids"), lambda: file.take("ids", np.arange(0, 4096, 100))):
        with pytest.raises(GalleryCorrupt, match="damaged at byte"):
            touch()
    assert (tmp_path / "a.safetensors").stat().st_size == stored.size


def test_stretches_are_verified_from_their_first_chunk_to_their_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "CHUNK", 1024)
    text = np.random.default_rng(0).integers(256, size=8192, dtype=np.uint8)
    stored = write_arrays(tmp_path / "a.safetensors", {"text": text})
    data = bytearray((tmp_path / "a.safetensors").read_bytes())
    data[data.index(text.tobytes()) + 5000] ^= 1
    (tmp_path / "a.safetensors").write_bytes(data)
    file = FileArrays(tmp_path, stored)
    assert file.slices("text", np.array([0, 7000]), np.array([3000, 8192])) == [
        text[:3000].tobytes(),
        text[7000:].tobytes(),
    ]
    with pytest.raises(GalleryCorrupt, match="damaged at byte"):
        file.slices("text", np.array([0, 2000]), np.array([10, 8000]))


def test_anyone_can_read_the_files(with_index: Path) -> None:
    told = load_file(next(with_index.glob("vectors-*")))
    assert told["ids"].tolist() == list(range(40))
    np.testing.assert_array_equal(told["vectors"], vectors(*range(40)))
