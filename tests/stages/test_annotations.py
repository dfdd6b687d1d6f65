"""COCO instances files: every kind of problem is found, and what is sound is read."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from pycocotools import mask as coco_mask

from stages.detect.annotations import (
    AnnotatedPhoto,
    AnnotationError,
    Annotations,
    Instance,
    Issue,
    extent,
    mask_of,
    to_rle,
)
from stages.detect.coco import photo_error, read_annotations
from stages.errors import CatalogueError
from stages.images import FORMATS, read_image, write_jpeg

WIDTH, HEIGHT = 40, 30
PIXELS = np.zeros((HEIGHT, WIDTH), np.uint8)
PIXELS[4:20, 6:18] = 1
BOX = [6, 4, 12, 16]
POLYGON = [6, 4, 18, 4, 18, 20, 6, 20]
COMPRESSED = coco_mask.encode(np.asfortranarray(PIXELS))["counts"].decode()
RUNS = [184, *([16, 14] * 11), 16, 670]
FORMS: dict[str, Any] = {
    "compressed": {"size": [HEIGHT, WIDTH], "counts": COMPRESSED},
    "runs": {"size": [HEIGHT, WIDTH], "counts": RUNS},
    "polygon": [POLYGON],
    "two polygons": [[6, 4, 12, 4, 12, 20, 6, 20], [12, 4, 18, 4, 18, 20, 12, 20]],
    "box": [],
}
Coco = dict[str, Any]


def valid() -> Coco:
    """Three photos; the first has a garment of every form, the second one and a crowd and a person."""
    garments = [(1, 1, form, 0) for form in FORMS.values()]
    garments += [(2, 1, FORMS["polygon"], 0), (2, 1, "a crowd's may be anything", 1), (2, 7, None, 0)]
    return {
        "images": [
            {"id": n, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT} for n, name in enumerate("abc", 1)
        ],
        "categories": [{"id": 1, "name": "dress"}, {"id": 2, "name": "bag"}, {"id": 7, "name": "person"}],
        "annotations": [
            {"id": n, "image_id": photo, "category_id": category, "bbox": BOX, "iscrowd": crowd, "segmentation": form}
            for n, (photo, category, form, crowd) in enumerate(garments, 10)
        ],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    (folder / "photos" / "sub").mkdir(parents=True)
    for name in ("a", "b", "c"):
        write_jpeg(folder / "photos" / f"{name}.jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    write_jpeg(folder / "photos" / "large.jpg", np.full((HEIGHT * 2, WIDTH, 3), 90, np.uint8))
    write_jpeg(folder / "outside.jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    (folder / "photos" / "text.jpg").write_text("no photo")
    (folder / "photos" / "cut.jpg").write_bytes((folder / "photos" / "a.jpg").read_bytes()[:40])
    return folder


def read(folder: Path, coco: object) -> Annotations:
    path = folder / "coco.json"
    path.write_text(json.dumps(coco))
    return read_annotations(path, folder / "photos", ["bag", "dress"])


def test_every_form_of_a_garment_gives_the_same_mask_and_box(folder: Path) -> None:
    annotations = read(folder, valid())
    annotations.raise_on_problems()
    assert [(photo.id, photo.file_name, len(photo.instances)) for photo in annotations.photos] == [
        (1, "a.jpg", 5),
        (2, "b.jpg", 1),
        (3, "c.jpg", 0),
    ]
    assert annotations.categories == {1: "dress", 2: "bag", 7: "person"}
    first = annotations.photos[0]
    assert {instance.label for instance in first.instances} == {2}, "the place in the labels given, from 1"
    assert {instance.box for instance in first.instances} == {(6.0, 4.0, 18.0, 20.0)}
    assert [instance.has_mask for instance in first.instances] == [True] * 4 + [False]
    assert first.masks().dtype == np.uint8
    for mask in first.masks():
        np.testing.assert_array_equal(mask, PIXELS)
    assert annotations.photos[2].masks().shape == (0, HEIGHT, WIDTH)


def test_notes_count_what_is_left_out_on_purpose(folder: Path) -> None:
    assert read(folder, valid()).notes == (
        "category 7 (person) is not one of the labels; annotations left out: 1",
        "labels without a garment, which cannot be learned: bag",
        "crowds (iscrowd), left out: 1",
        "photos without a garment: 1 of 3",
        "garments with a box but no segmentation: 1",
        "garments with the label and box of another: 4",
    )


def test_a_box_or_a_mask_may_be_missing_unless_masks_are_needed(folder: Path) -> None:
    coco = valid()
    with pytest.raises(CatalogueError, match="1 garment with a box but no segmentation"):
        read(folder, coco).raise_on_boxes_only()
    del coco["annotations"][4]
    del coco["annotations"][4]["bbox"]
    annotations = read(folder, coco)
    annotations.raise_on_boxes_only()
    assert annotations.photos[1].instances[0].box == (6, 4, 18, 20)


def photo(**changes: object) -> Callable[[Coco], None]:
    return lambda coco: coco["images"][1].update(changes)


def garment(**changes: object) -> Callable[[Coco], None]:
    return lambda coco: coco["annotations"][5].update(changes)


def outline(form: object) -> Callable[[Coco], None]:
    return garment(segmentation=form)


def add(part: str, record: object) -> Callable[[Coco], None]:
    return lambda coco: coco[part].append(record)


def counts(value: object, size: object = (HEIGHT, WIDTH)) -> Callable[[Coco], None]:
    return outline({"size": size, "counts": value})


AGAIN = {"id": 9, "file_name": "./b.jpg", "width": WIDTH, "height": HEIGHT}
OTHER = {"id": 2, "file_name": "c2.jpg", "width": WIDTH, "height": HEIGHT}
SAME = {"id": 2, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT}
WRONG: list[tuple[Issue, Callable[[Coco], None], str, int]] = [  # and how many garments are left, of 6
    (Issue.PHOTO_RECORD, add("images", 5), r"images\[3\]: has no whole number as its id: 5", 6),
    (Issue.PHOTO_RECORD, photo(file_name=None), "image 2: has no file_name, but None", 5),
    (Issue.PHOTO_RECORD, photo(width="40"), "image 2: has no width and height in pixels, but '40' and 30", 5),
    (Issue.PHOTO_RECORD, photo(height=-30), "but 40 and -30", 5),
    (Issue.PHOTO_RECORD, photo(width=10**8), "larger than the limit for photos", 5),
    (Issue.PHOTO_ID, add("images", OTHER), "image 2: has 2 records: b.jpg, c2.jpg", 5),
    (Issue.PHOTO_ID, add("images", SAME), "image 2: has 2 records: b.jpg$", 6),
    (Issue.PHOTO_TWICE, add("images", AGAIN), "b.jpg: is recorded as the images 2, 9", 5),
    (Issue.PHOTO_OUTSIDE, photo(file_name="../outside.jpg"), "image 2: wanted a path within the photos folder", 5),
    (Issue.PHOTO_OUTSIDE, photo(file_name=str(Path.cwd() / "b.jpg")), "wanted a path within the photos folder", 5),
    (Issue.PHOTO_MISSING, photo(file_name="gone.jpg"), r"image 2 \(gone.jpg\): was not found", 5),
    (Issue.PHOTO_MISSING, photo(file_name="sub"), "is not a file", 5),
    (Issue.PHOTO_MISSING, photo(file_name="nul\0.jpg"), "was not found", 5),
    (Issue.PHOTO_UNREADABLE, photo(file_name="text.jpg"), r"image 2 \(text.jpg\): is not a photo of a known format", 5),
    (Issue.PHOTO_UNREADABLE, photo(file_name="cut.jpg"), "cannot be read: ", 5),
    (Issue.PHOTO_UNREADABLE, photo(file_name="x" * 300), "cannot be read: ", 5),
    (Issue.PHOTO_SIZE, photo(file_name="large.jpg"), "is 40x60, but recorded as 40x30", 5),
    (Issue.CATEGORY, add("categories", {"id": "x"}), r"categories\[3\]: has a text as its id \('x'\)", 6),
    (Issue.CATEGORY, add("categories", {"id": 8}), r"categories\[3\]: has no name", 6),
    (Issue.RECORD, garment(iscrowd="0"), "annotation 15 of b.jpg: has the iscrowd '0'; wanted 0 or 1", 5),
    (Issue.UNKNOWN_CATEGORY, garment(category_id="1"), "no category has the id '1'; it is a text", 5),
    (Issue.FRACTIONS, garment(bbox=[0.2, 0.2, 0.3, 0.3]), "pixels, not fractions of the photo", 5),
    (Issue.FRACTIONS, outline([[0.1, 0.1, 0.4, 0.1, 0.4, 0.5]]), "not fractions of the photo", 5),
    (Issue.CATEGORY, add("categories", {"id": 7, "name": "hat"}), r"category 7 \(hat\): has the id of another", 6),
    (Issue.RECORD, add("annotations", None), r"annotations\[8\]: has no whole number as its id", 6),
    (Issue.RECORD, garment(id=1.5), r"annotations\[5\] of b.jpg: has no whole number as its id", 5),
    (Issue.RECORD, garment(bbox=None, segmentation=None), "annotation 15 of b.jpg: has neither bbox nor seg", 5),
    (Issue.ID, garment(id=10), "annotation 10 of b.jpg: an earlier annotation has the same id", 5),
    (Issue.UNKNOWN_PHOTO, garment(image_id=99), "annotation 15: no image has the id 99", 5),
    (Issue.UNKNOWN_PHOTO, garment(image_id=[1]), "no image has the id", 5),
    (Issue.UNKNOWN_CATEGORY, garment(category_id=99), "annotation 15 of b.jpg: no category has the id 99", 5),
    (Issue.BOX_MALFORMED, garment(bbox=[1, 2, 3]), "annotation 15 of b.jpg: wanted bbox", 5),
    (Issue.BOX_MALFORMED, garment(bbox=[1, 2, 3, "4"]), "wanted bbox", 5),
    (Issue.BOX_EMPTY, garment(bbox=[6, 4, 0, 16]), "is 0 px wide and 16 px high", 5),
    (Issue.BOX_EMPTY, garment(bbox=[6, 4, 12, -1]), "is 12 px wide and -1 px high", 5),
    (Issue.BOX_OUTSIDE, garment(bbox=[6, 4, 36, 16]), "reaches 2 px out of the 40x30 photo", 5),
    (Issue.BOX_OUTSIDE, garment(bbox=[-0.9, 4, 0.5, 16]), "reaches 0.9 px out", 5),
    (Issue.BOX_OUTSIDE, garment(bbox=[float("nan"), 4, 1, 1]), "is not finite", 5),
    (Issue.BOX_OUTSIDE, garment(bbox=[6, 4, float("inf"), 10**400]), "is not finite", 5),
    (Issue.MASK_MALFORMED, outline("polygon"), "annotation 15 of b.jpg: segmentation is neither polygons nor", 5),
    (Issue.MASK_MALFORMED, outline(POLYGON), "is a list of numbers", 5),
    (Issue.MASK_MALFORMED, outline([POLYGON, [[1, 2], [3, 4]]]), "a polygon that is no list of numbers", 5),
    (Issue.MASK_MALFORMED, outline([POLYGON, POLYGON[:-1]]), "of 7 numbers, an odd count", 5),
    (Issue.MASK_MALFORMED, outline([[1, 1, 9, 9]]), "of 2 points; it takes 3", 5),
    (Issue.MASK_MALFORMED, outline([[1, 1, 9, 1, 9, 1e9]]), "reaches 1e[+]09 px out", 5),
    (Issue.MASK_MALFORMED, outline([[1, 1, 9, 1, 9, float("nan")]]), "reaches nan px out", 5),
    (Issue.MASK_MALFORMED, outline([[0, 0, 40, 30, 0, 30] * 99]), "outline is longer", 5),
    (Issue.MASK_MALFORMED, counts(RUNS, [WIDTH, HEIGHT]), r"has the size \[40, 30\], its photo", 5),
    (Issue.MASK_MALFORMED, counts(RUNS[:-1]), "runs of 530 pixels in all, its photo has 1200", 5),
    (Issue.MASK_MALFORMED, counts([-1, *RUNS, 1]), "has a run of -1 pixels", 5),
    (Issue.MASK_MALFORMED, counts([10**30]), "pixels in all", 5),
    (Issue.MASK_MALFORMED, counts([True, 2.5]), "counts that are no run lengths", 5),
    (Issue.MASK_MALFORMED, counts(None), "counts that are no run lengths: None", 5),
    (Issue.MASK_MALFORMED, counts(COMPRESSED[:-1]), "pixels in all|no string of run lengths", 5),
    (Issue.MASK_MALFORMED, counts(COMPRESSED + "T"), "no string of run lengths", 5),
    (Issue.MASK_MALFORMED, counts(COMPRESSED + "~"), "no string of run lengths", 5),
    (Issue.MASK_MALFORMED, counts("5\N{SNOWMAN}2"), "no string of run lengths", 5),
    (Issue.MASK_MALFORMED, counts("\ud800"), "no string of run lengths", 5),
    (Issue.MASK_MALFORMED, counts("PPPPPPP0"), "a run length of 8 characters", 5),
    (Issue.MASK_MALFORMED, counts("O"), "has a run of -1 pixels", 5),
    (Issue.MASK_MALFORMED, counts(""), "no string of run lengths", 5),
    (Issue.MASK_EMPTY, counts([HEIGHT * WIDTH]), "annotation 15 of b.jpg: segmentation covers no pixel", 5),
    (Issue.MASK_EMPTY, outline([[6.3, 4, 6.3, 5, 6.3, 6]]), "covers no pixel", 5),
    (Issue.MASK_OUTSIDE, garment(bbox=[20, 4, 10, 16]), "0% .* covers .6.0, 4.0, 18.0, 20.0., lies in bbox .20.0", 5),
    (Issue.MASK_OUTSIDE, garment(bbox=[14, 4, 26, 16]), "33% of the segmentation", 5),
    (Issue.MASK_OUTSIDE, outline([[1, 1, 5, 1, 5, 28, 30, 28, 30, 29, 1, 29]]), "0% of the segmentation", 5),
]


@pytest.mark.parametrize(("kind", "spoil", "said", "left"), WRONG, ids=lambda value: getattr(value, "name", None))
def test_a_wrong_record_is_one_problem_and_the_others_can_be_used(
    folder: Path, kind: Issue, spoil: Callable[[Coco], None], said: str, left: int
) -> None:
    coco = valid()
    spoil(coco)
    annotations = read(folder, coco)
    (problem,) = annotations.problems
    assert problem.kind == kind
    assert re.search(said, str(problem))
    assert str(problem).isprintable()
    with pytest.raises(CatalogueError, match="pass --skip-bad") as raised:
        annotations.raise_on_problems()
    assert f"  {kind} (1):\n    {problem}\n" in str(raised.value)
    annotations.raise_on_problems(skip_bad=True)
    assert sum(1 for _ in annotations.instances) == left


def boxed(*boxes: list[float], **more: object) -> Coco:
    coco = valid()
    coco["annotations"] = [
        {"id": number, "image_id": 1 + number % 3, "category_id": 1, "bbox": box, **more}
        for number, box in enumerate(boxes)
    ]
    return coco


def corner_problems(annotations: Annotations) -> list[str]:
    return [str(one) for one in annotations.problems if one.kind == Issue.BOX_CORNERS]


def test_corners_in_place_of_width_and_height_are_recognised(folder: Path) -> None:
    ok = boxed([6, 4, 12, 16], [8, 2, 22, 26], [10, 5, 20, 20], [4, 6, 30, 18], [20, 9, 18, 13])
    assert read(folder, ok).problems == ()
    corners = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in ok["annotations"])]
    outside = corner_problems(read(folder, boxed(*corners)))
    assert "reach out of their photo, and all fit as [x1, y1, x2, y2]" in outside[0]
    inside = [[14, 10, 26, 20], [13, 9, 27, 21], [12, 8, 28, 22], [15, 10, 25, 20], [11, 9, 28, 21]]
    assert "nearer the middle of their photos" in corner_problems(read(folder, boxed(*inside)))[0]
    assert corner_problems(read(folder, boxed(*inside[:2]))) == [], "two boxes may lie anywhere"
    assert (
        "2 of 2 agree with their segmentation or area"
        in corner_problems(read(folder, boxed(*inside[:1] * 2, area=120)))[0]
    )
    assert corner_problems(read(folder, boxed(*inside[:1] * 9, area=520))) == [], "the area says width and height"
    small = boxed([4, 3, 14, 12], [6, 4, 16, 14], area=91)
    small["annotations"][0]["area"] = 90  # 10 x 9 as corners, and a mask of the larger box could have it too
    small["annotations"][1]["area"] = 100
    assert "2 of 2 agree" in corner_problems(read(folder, small))[0]
    masked = boxed([6, 4, 18, 20], segmentation=[POLYGON])
    assert "1 of 1 agree with their segmentation" in corner_problems(read(folder, masked))[0]


def test_percentages_are_recognised(folder: Path) -> None:
    coco = boxed(*([10 + place, 20, 30, 40] for place in range(5)))
    for size, problems in ((400, 1), (120, 0)):  # in small photos, boxes may well lie there
        for photo in coco["images"]:
            photo["width"] = photo["height"] = size
        (folder / "coco.json").write_text(json.dumps(coco))
        annotations = read_annotations(folder / "coco.json", folder, ["dress"], check_images=False)
        assert [one.kind for one in annotations.problems].count(Issue.PERCENTAGES) == problems


def test_ids_may_be_large_but_not_texts(folder: Path) -> None:
    coco = valid()
    for part, keys in (("images", ["id"]), ("annotations", ["id", "image_id"])):
        for record in coco[part]:
            record.update({key: record[key] + 2**60 for key in keys})
    annotations = read(folder, coco)
    assert annotations.problems == ()
    assert [photo.id for photo in annotations.photos] == [2**60 + 1, 2**60 + 2, 2**60 + 3]
    for category in coco["categories"]:
        category["id"] = str(category["id"])
    with pytest.raises(CatalogueError, match=r"none of its categories can be used; .*text as its id \('1'\)"):
        read(folder, coco)


def test_paths_that_lead_into_the_photos_folder_are_relative_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    coco = valid()
    names = [str(folder / "photos" / "a.jpg"), "photos/b.jpg", "photos/../photos/c.jpg"]
    for record, name in zip(coco["images"], names, strict=True):
        record["file_name"] = name
    annotations = read(folder, coco)
    assert annotations.problems == ()
    assert [photo.file_name for photo in annotations.photos] == ["a.jpg", "b.jpg", "c.jpg"]


def test_file_names_meet_their_photos_in_any_spelling(folder: Path) -> None:
    coco = valid()
    (folder / "photos" / "straße").mkdir()
    shutil.copy(folder / "photos" / "a.jpg", folder / "photos" / "straße" / normalize("NFD", "ä.jpg"))
    coco["images"][0]["file_name"] = normalize("NFC", "straße\\ä.jpg")
    coco["images"][1]["file_name"] = "..\\photos\\b.jpg"
    annotations = read(folder, coco)
    assert annotations.photos[0].file_name == normalize("NFD", "straße/ä.jpg")
    assert annotations.problems == ()


def test_many_problems_of_a_kind_are_counted(folder: Path) -> None:
    coco = valid()
    coco["annotations"] += [coco["annotations"][0]] * 33 + [coco["annotations"][0] | {"id": 99, "bbox": [1, 1, 0, 0]}]
    said = read(folder, coco).describe()
    assert said.startswith(f"{folder / 'coco.json'}: 34 problems; 6 garments in 3 photos can be used\n")
    assert "  annotation ids used twice (33):\n" in said
    assert said.count("annotation 10 of a.jpg: ") == 20
    assert "    and 13 more\n  empty boxes (1):\n    annotation 99 of a.jpg: bbox [1, 1, 0, 0]" in said


def test_annotations_of_a_photo_that_is_left_out_are_no_further_problems(folder: Path) -> None:
    coco = valid()
    coco["images"][0]["file_name"] = "gone.jpg"
    coco["annotations"][0]["bbox"] = [1, 1, 0, 0]
    annotations = read(folder, coco)
    assert [problem.kind for problem in annotations.problems] == [Issue.PHOTO_MISSING]
    assert [photo.id for photo in annotations.photos] == [2, 3]


def test_a_file_without_any_garment_is_an_error_even_if_problems_are_skipped(folder: Path) -> None:
    coco = valid()
    coco["annotations"] = coco["annotations"][6:]
    with pytest.raises(CatalogueError, match="There is no garment to train on"):
        read(folder, coco).raise_on_problems(skip_bad=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\xff", "is not JSON in UTF-8; .* save it as UTF-8"),
        ("PK\3\4 an Excel file", "it is a spreadsheet .*Wanted a JSON file .*export it .* as COCO JSON"),
        ("[]", "has no list of images and annotations and categories"),
        ('{"images": [], "annotations": {}}', "has no list of annotations and categories"),
        (json.dumps(valid() | {"categories": []}), r"none of its categories \(there are none\)"),
        (json.dumps(valid() | {"categories": [{"id": 1, "name": "Dress"}]}), r"\(Dress\) is a label to train on"),
        (json.dumps(valid() | {"categories": [{"id": 1, "name": "a, b"}]}), "a name with a comma needs quotes"),
    ],
)
def test_a_file_that_is_not_coco_instances_is_refused(folder: Path, text: str, said: str) -> None:
    path = folder / "other.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CatalogueError, match=f"other.json.*{said}"):
        read_annotations(path, folder / "photos")


def test_missing_files_and_folders_are_refused(folder: Path) -> None:
    with pytest.raises(CatalogueError, match="cannot be read: No such file"):
        read_annotations(folder / "none.json", folder / "photos")
    read(folder, valid())
    with pytest.raises(CatalogueError, match="nowhere is not a folder"):
        read_annotations(folder / "coco.json", folder / "nowhere")
    unchecked = read_annotations(folder / "coco.json", folder / "nowhere", check_images=False)
    assert len(unchecked.photos) == 3


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", *(["avif"] if "AVIF" in FORMATS else [])])
def test_the_size_is_that_of_the_upright_photo(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    PillowImage.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(path, exif=exif)
    height, width, _ = read_image(path).shape
    assert photo_error(tmp_path, AnnotatedPhoto(1, path.name, width, height)) is None
    error = photo_error(tmp_path, AnnotatedPhoto(1, path.name, height, width))
    assert re.match(rf"is {width}x{height}.* but recorded as {height}x{width}", str(error))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([COMPRESSED, 2**31, 40, 30, 1, 2]),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["id", "name", "size", "counts"]), inner)
    ),
    max_leaves=6,
)


def places(value: object) -> list[tuple[Any, Any]]:
    """Every container of a JSON value with every key of it."""
    keys = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None, max_examples=60)
@given(data=st.data())
def test_any_damaged_file_is_refused_or_read_soundly(folder: Path, data: st.DataObject) -> None:
    coco = copy.deepcopy(valid())
    for _ in range(data.draw(st.integers(1, 4))):
        if not (left := places(coco)):
            break
        container, key = data.draw(st.sampled_from(left))
        how = data.draw(st.sampled_from(["replace", "shift", "drop", "double"]))
        if how == "replace":
            container[key] = data.draw(JSON)
        elif how == "shift" and isinstance(container[key], int | float):
            container[key] += data.draw(st.integers(-3, 3) | st.floats())
        elif how == "drop":
            del container[key]
        elif how == "double" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
    try:
        annotations = read(folder, coco)
    except CatalogueError:
        return
    assert all(line.isprintable() for line in annotations.describe().splitlines())
    assert annotations.describe().count("\n    ") == len(annotations.problems) + len(annotations.notes)
    for photo in annotations.photos:
        assert read_image(folder / "photos" / photo.file_name).shape == (photo.height, photo.width, 3)
        for instance, mask in zip(photo.instances, photo.masks(), strict=True):
            x1, y1, x2, y2 = instance.box
            assert 0 <= x1 < x2 <= photo.width
            assert 0 <= y1 < y2 <= photo.height
            assert mask.any()
            assert mask.max() == 1


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=35, max_size=35), st.sampled_from([5, 7, 35, 1]))
def test_run_lengths_of_any_mask_come_through(bits: list[bool], height: int) -> None:
    pixels = np.asfortranarray(np.array(bits, np.uint8).reshape(height, -1))
    width = pixels.shape[1]
    encoded = coco_mask.encode(pixels)["counts"]
    flat = pixels.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    runs = np.diff(edges, prepend=0, append=flat.size).tolist()
    size = [height, width]
    assert to_rle({"size": size, "counts": encoded.decode()}, height, width) == encoded
    assert to_rle({"size": size, "counts": runs}, height, width) == encoded
    np.testing.assert_array_equal(mask_of(Instance(1, (0, 0, 1, 1), encoded), height, width), pixels)
    rows, columns = np.nonzero(pixels)
    wanted = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if rows.size else None
    assert extent(encoded, height, width) == wanted


def runs_one_by_one(text: str) -> list[int]:
    """The format by its definition, for strings that are finished."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (digit >> 4 & 1) << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12), st.integers(1, 40), st.integers(1, 40))
def test_a_string_of_run_lengths_is_good_only_if_it_adds_up(text: str, height: int, width: int) -> None:
    runs = runs_one_by_one(text)
    finished = bool(text) and not (ord(text[-1]) - 48) & 32
    good = finished and min(runs) >= 0 and sum(runs) == height * width
    try:
        rle = to_rle({"size": [height, width], "counts": text}, height, width)
    except AnnotationError:
        assert not good or len(text) > 6, "only a run length of too many characters may be refused beyond that"
    else:
        assert good
        assert mask_of(Instance(1, (0, 0, 1, 1), rle), height, width).sum() == sum(runs[1::2])
