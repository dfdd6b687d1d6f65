"""What becomes of a gallery when things go wrong; see gallery_faults.py for the doing."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gallery_faults
import numpy as np
import pytest
from test_gallery import new, row, vectors

from pipeline.gallery import Gallery, search, verify, writing
from pipeline.gallery.vectors import decode
from stages.errors import GalleryCorrupt, GalleryError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, signals and LD_PRELOAD")
HERE = Path(__file__).parent


def fault(kind: str, folder: Path, *more: str, preload: bool = False) -> Any:
    if preload and shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    env = os.environ | ({"LD_PRELOAD": str(gallery_faults.build(folder))} if preload else {})
    memory = Path("/dev/shm")  # where syncing takes no time
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else folder) as work:
        env["OUTFINDER_CACHE"] = f"{work}/cache"
        command = [sys.executable, HERE / "gallery_faults.py", kind, work, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_faults(told: dict[str, Any], tried: Callable[..., None], least: int) -> None:
    for name, found in told["results"].items():
        statuses, states = [status for status, _ in found], [what for _, what in found]
        assert set(states) <= {"old", "new"}, (name, states)
        assert states == sorted(states, reverse=True), name  # old up to the commit, new from then on
        assert set(statuses) <= ({-9} if "KILL" in name else {0, 3, 6}), name
        if "KILL" not in name and "compact" not in name:  # what is told has happened
            unclear = found.count([3, "new"])  # it was written, but syncing failed: it may not last
            assert unclear <= (0 if "reading" in name else 1), (name, found)
            told_rightly = [[0, "new"], [3, "old"], [6, "new"], [3, "new"]]
            assert all(pair in told_rightly for pair in found), (name, found)
        assert len(found) >= least
        tried("kills of a change" if "KILL" in name else "injected errors", len(found))
    assert all(opened == 0 for _, opened in told["created"])
    tried("kills of a change", len(told["created"]))


def test_a_change_that_is_killed_or_fails_at_any_step_leaves_the_old_or_the_new_state(
    tmp_path: Path, tried: Callable[..., None]
) -> None:
    check_faults(fault("faults", tmp_path, preload=True), tried, least=2)


@pytest.mark.slow
def test_nine_changes_that_are_killed_or_fail_at_every_step_leave_the_old_or_the_new_state(
    tmp_path: Path, tried: Callable[..., None]
) -> None:
    told = fault("faults", tmp_path, "every", preload=True)
    check_faults(told, tried, least=5)
    for name in gallery_faults.CHANGES:
        assert {what for _, what in told["results"][f"{name} KILL"]} == {"old", "new"} or "compact" in name


def check_power(told: dict[str, Any], tried: Callable[..., None]) -> None:
    assert told["wrong"] == []
    assert told["points"] >= 10
    tried("states after a power failure", told["states"])


def test_a_power_failure_loses_nothing_that_was_saved(tmp_path: Path, tried: Callable[..., None]) -> None:
    check_power(fault("power", tmp_path, preload=True), tried)


@pytest.mark.slow
def test_a_power_failure_after_any_change_of_a_file_loses_nothing_that_was_saved(
    tmp_path: Path, tried: Callable[..., None]
) -> None:
    check_power(fault("power", tmp_path, "every", preload=True), tried)


@pytest.mark.parametrize("more", [(), pytest.param(("every",), marks=pytest.mark.slow)])
def test_a_change_with_few_file_descriptors_is_made_or_told_as_failed(
    tmp_path: Path, tried: Callable[..., None], more: tuple[str, ...]
) -> None:
    found = fault("descriptors", tmp_path, *more)
    assert {tuple(pair) for pair in found} == {(0, "new"), (3, "old")}
    tried("changes with few file descriptors", len(found))


def check_damage(told: dict[str, Any], tried: Callable[..., None]) -> None:
    assert told["after"] == 0
    assert not {what: status for what, status in told["results"].items() if status not in (0, 3)}
    assert sum(status == 3 for status in told["results"].values()) > 0.2 * len(told["results"])
    tried("flipped bits and cuts of a gallery's file", len(told["results"]))


def test_damage_to_any_page_is_told_or_does_no_harm(tmp_path: Path, tried: Callable[..., None]) -> None:
    check_damage(fault("damage", tmp_path), tried)


@pytest.mark.slow
def test_damage_to_one_byte_in_seven_is_told_or_does_no_harm(tmp_path: Path, tried: Callable[..., None]) -> None:
    check_damage(fault("damage", tmp_path, "every"), tried)


def test_a_schema_with_damaged_text_is_reported(tmp_path: Path) -> None:
    gallery_faults.make(tmp_path)
    path = tmp_path / "gallery.sqlite"
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE photos", b"CREATE\xd4TABLE photos"))

    with pytest.raises(GalleryCorrupt, match="is damaged"):
        Gallery.open(tmp_path)


def test_readers_see_whole_generations_while_a_writer_saves(tmp_path: Path) -> None:
    assert fault("readers", tmp_path) == [0, 0, 0]


@pytest.mark.slow
def test_eight_readers_see_whole_generations_during_fifty_saves(tmp_path: Path, tried: Callable[..., None]) -> None:
    assert fault("readers", tmp_path, "many") == [0] * 9
    tried("saves while 8 readers read", 50)


def test_a_process_whose_files_are_overwritten_or_cut_short_lives_on(
    tmp_path: Path, tried: Callable[..., None]
) -> None:
    statuses = fault("overwritten", tmp_path)
    assert set(statuses) == {0}
    tried("files overwritten or cut short under a reader", len(statuses))


LOCKLESS = """
import errno, fcntl, sys, warnings
def flock(*_):
    raise OSError(errno.ENOSYS, "no locks here")
fcntl.flock = flock
warnings.simplefilter("ignore")
from pathlib import Path
from pipeline.gallery import writing
with writing(Path(sys.argv[1])):
    print("held")
"""


def test_a_copied_lock_is_named_where_its_existence_would_count_for_ever(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("1\nanother-machine\n")

    def hold() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LOCKLESS, tmp_path]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    told = hold()
    if "held" not in told.stdout:  # an old filelock refuses such a file system altogether
        assert f"delete {tmp_path / 'lock'} if nobody is writing" in told.stderr or "cannot be written" in told.stderr
    if "delete" in told.stderr:
        (tmp_path / "lock").unlink()
        assert hold().stdout == "held\n"


def test_a_folder_that_cannot_be_written_is_told_and_can_be_read(tmp_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may write anywhere")
    new(tmp_path / "g").close()
    (tmp_path / "g").chmod(0o555)
    try:
        gallery = Gallery.open(tmp_path / "g")
        with pytest.raises(GalleryError, match="cannot be written"):
            gallery.add([row("a", "1")], vectors(1))
    finally:
        (tmp_path / "g").chmod(0o755)


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
    with writing(str(tmp_path / "g")), writing(tmp_path / "g"):  # the process that holds it may hold it again
        gallery.add([row("a", "1")], vectors(1))
        gallery.save()
    gallery.close()
    assert {path.name for path in (tmp_path / "g").iterdir()} <= {"gallery.sqlite", "lock"}


def test_a_change_never_overwrites_what_someone_else_saved(tmp_path: Path) -> None:
    mine = new(tmp_path / "g")
    yours = Gallery.open(tmp_path / "g")
    yours.add([row("b", "2")], vectors(2))
    with pytest.raises(GalleryError, match="is being written"):
        mine.add([row("a", "1")], vectors(1))
    yours.save()
    with pytest.raises(GalleryError, match="written by someone else since it was opened"):
        mine.add([row("a", "1")], vectors(1))
    assert Gallery.open(tmp_path / "g").items == ["b"]


def with_sql(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "gallery.sqlite", isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("PRAGMA user_version = 4", "has format 4 and this outfinder reads 3: update outfinder"),
        ("PRAGMA user_version = 2", "made by an older outfinder; index the catalogue again"),
        ("PRAGMA application_id = 1", "damaged, or not a gallery"),
        ("UPDATE gallery SET dim = 7", "its checksum is not the saved one"),
        ("DELETE FROM gallery", "manifest"),
        ("DROP TABLE blocks", "not those of a gallery"),
        ("CREATE TRIGGER t AFTER INSERT ON photos BEGIN DELETE FROM photos; END", "not those of a gallery"),
        ("ALTER TABLE photos ADD COLUMN more TEXT", "not those of a gallery"),
        ("UPDATE blocks SET live = zeroblob(1)", "checksum of block 0"),
        ("UPDATE blocks SET ids = 'text'", "checksum of block 0"),
    ],
)
def test_a_file_that_is_not_a_gallery_of_this_format_is_told(tmp_path: Path, harm: str, told: str) -> None:
    gallery = new(tmp_path / "g")
    gallery.add([row("a", "1")], vectors(1))
    gallery.save()
    gallery.close()
    with_sql(tmp_path / "g", harm)
    with pytest.raises(GalleryError, match=told):
        Gallery.open(tmp_path / "g")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("UPDATE photos SET photo = '/etc/passwd'", "checksum of photo 0"),
        ("UPDATE photos SET price = 3", "checksum of photo 0"),
        ("DELETE FROM photos", "its photos are not those of its vectors|rows are missing"),
        ("UPDATE vectors SET data = zeroblob(49 * 4)", "vectors of block 0"),
        ("DELETE FROM vectors", "vectors of block 0"),
    ],
)
def test_what_was_changed_by_another_tool_is_told_where_it_is_read(tmp_path: Path, harm: str, told: str) -> None:
    gallery = new(tmp_path / "g")
    gallery.add([row("a", "1", price="5")], vectors(1))
    gallery.save()
    gallery.close()
    with_sql(tmp_path / "g", harm)
    opened = Gallery.open(tmp_path / "g")
    with pytest.raises(GalleryCorrupt, match=told):
        opened.search(vectors(1))
    with pytest.raises(GalleryCorrupt, match=told):
        opened.vectors_of("a")
    assert any("damaged" in line for line in verify(tmp_path / "g"))


def test_an_older_gallery_is_refused_and_nothing_is_made_over_it(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    for use in (lambda: Gallery.open(tmp_path), lambda: verify(tmp_path)):
        with pytest.raises(
            GalleryError, match="made by an older outfinder; index the catalogue again: outfinder index"
        ):
            use()
    with pytest.raises(GalleryError, match="already"):
        new(tmp_path)


def write_to(folder: Path) -> None:
    gallery = Gallery.open(folder)
    with writing(folder):
        gallery.add([row("a", "1")], vectors(1))
        gallery.save()


@pytest.mark.parametrize(
    "name",
    ["gallery.sqlite", "gallery.sqlite-wal", "gallery.sqlite-shm", "gallery.sqlite-journal", "lock", "writer.json"],
)
@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to, lambda path, _: os.mkfifo(path)])
def test_planted_links_and_pipes_are_not_followed(
    tmp_path: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    gallery = new(tmp_path / "g")
    gallery.close()
    victim = tmp_path / "victim"
    if name == "gallery.sqlite":
        (tmp_path / "g" / name).rename(victim)
    else:
        victim.write_text("precious")
    before = victim.read_bytes()
    (tmp_path / "g" / name).unlink(missing_ok=True)
    plant(tmp_path / "g" / name, victim)
    with pytest.raises(GalleryError, match=r"link|regular"):
        write_to(tmp_path / "g")
    assert victim.read_bytes() == before


@pytest.fixture
def with_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gallery of 40 photos, which has an index."""
    monkeypatch.setenv("OUTFINDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(search, "TAIL", 10)
    monkeypatch.setattr(search, "WALK", 0)
    gallery = new(tmp_path / "g", "hnsw")
    gallery.add([row(f"i{number}", f"p{number}") for number in range(40)], vectors(*range(40)))
    gallery.save()
    gallery.close()
    return tmp_path / "g"


def cached(folder: Path, ending: str) -> Path:
    (path,) = (folder.parent / "cache").rglob(f"*.{ending}")
    return path


@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
@pytest.mark.parametrize("ending", ["graph", "npz"])
def test_a_damaged_index_is_rebuilt(with_index: Path, ending: str, harm: str) -> None:
    path = cached(with_index, ending)
    data = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes(data[:-2] if harm == "cut" else data[:200] + bytes([data[200] ^ 4]) + data[201:])
    problems = verify(with_index)
    assert all("outfinder gallery rebuild" in problem for problem in problems)
    assert len(problems) == (ending == "graph")
    gallery = Gallery.open(with_index)
    assert [match.item for match in gallery.search(vectors(7), k=1, min_similarity=0.99)[0]] == ["i7"]
    Gallery.open(with_index).rebuild()
    assert verify(with_index) == []
    assert Gallery.open(with_index).kept_index is not None


def test_an_index_that_others_may_have_written_is_not_used(with_index: Path, caplog: pytest.LogCaptureFixture) -> None:
    cached(with_index, "graph").parent.chmod(0o777)
    assert Gallery.open(with_index).kept_index is None
    assert "others may write there" in caplog.text


def test_an_index_is_used_for_the_vectors_that_it_was_made_of_alone(with_index: Path) -> None:
    kept = Gallery.open(with_index).kept_index
    other = with_index.parent / "other"
    shutil.copytree(with_index, other)
    assert Gallery.open(other).kept_index == kept
    gallery = Gallery.open(other)
    gallery.remove(["i39"])
    gallery.add([row("new", "p")], vectors(1000))
    gallery.save()
    assert gallery.kept_index == kept  # of which one photo is removed, and one waits
    gallery.close()
    with_sql(other, "UPDATE vectors SET digest = zeroblob(32)")
    with pytest.raises(GalleryCorrupt):
        Gallery.open(other).search(vectors(7), k=1)
    gallery = Gallery.open(with_index)
    gallery.remove(["i5"])
    gallery.compact()  # other blocks
    assert gallery.kept_index not in (None, kept)


def test_anyone_can_read_the_file(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    gallery.add([row("a", "1", price="5"), row("a", "2")], vectors(1, 2))
    gallery.save()
    gallery.close()
    with closing(sqlite3.connect(tmp_path / "g" / "gallery.sqlite")) as database:
        assert database.execute("SELECT item, photo, label, price FROM photos").fetchall() == [
            ("a", "1", "top", "5"), ("a", "2", "top", None)]  # fmt: skip
        assert database.execute("SELECT * FROM items").fetchall() == [("a", 2)]
        (data,) = database.execute("SELECT data FROM vectors").fetchone()
    np.testing.assert_array_equal(decode(np.frombuffer(data, "<f4").reshape(-1, 49)), vectors(1, 2))
