"""Golden outputs: what the commands and the HTTP API give for a small fixed input, recorded before a redesign.

    python tests/golden.py compare [SECTION ...]    # tell every difference from tests/golden/*.json; exit status 1
    python tests/golden.py record [SECTION ...]     # write these files anew, for differences that are meant

Only the command line and the HTTP API are used, so that everything behind them may change. A field that is added is no
difference; one that is lost is. Words of errors, times and styling are not recorded.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "golden"
SCORES = LOSSES = 1e-3
PIXELS = 1
AREA = 0.01
UNRECORDED = (
    "ms",
    "mb",
    "seconds",
    "per_second",
    "memory",
    "device",
    "verdict",
    "about",
    "intervals",
    "notes",
    "problems",
)
STEPS = 20

DETECTOR_OPTIONS = (
    "--input-px 192 --batch-size 1 --rounds 6.6667 --workers 0 --set rare=0 --set precision=float32 --set seed=0"
)
EMBEDDER_OPTIONS = (
    f"--start siamese --steps {STEPS} --workers 0 --set batch_size=8 --set photos=2 --set train_px=96 --set hold_out=0"
    " --set precision=float32 --set seed=0"
)

LOSSES_OF_STEPS = """
import json, sys
import torch
from pipeline.__main__ import main
torch.set_num_threads(1)
losses, backward = [], torch.autograd.backward
def recorded(tensors, *others, **more):
    losses.append(float(tensors if torch.is_tensor(tensors) else tensors[0]))
    return backward(tensors, *others, **more)
torch.autograd.backward = recorded
file = sys.argv.pop(1)
try:
    main()
finally:
    json.dump(losses, open(file, "w"))
"""


def outfinder(*arguments: Any, status: int = 0) -> str:
    """Run the command in the current folder; its standard output."""
    return python("-m", "pipeline", *arguments, status=status)


def python(*arguments: Any, status: int = 0) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], check=False, capture_output=True, text=True)
    if done.returncode != status:
        sys.exit(f"{' '.join(map(str, arguments[-8:]))}: exit status {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def detect() -> Any:
    """Both detectors: JSON lines, CSV, COCO, crops and overlays; one photo of three is unreadable."""
    Path("photos").mkdir()
    for name in ("0001.jpg", "0002.jpg"):
        shutil.copy(Path("street") / name, "photos")
    Path("photos/broken.jpg").write_text("no photo")
    outfinder(
        *(
            "detect",
            "photos",
            "-o",
            "d.jsonl",
            "--masks",
            "--coco",
            "d.json",
            "--crops",
            "crops",
            "--overlays",
            "drawn",
        ),
        status=1,
    )
    outfinder("detect", "photos", "-o", "d.csv", status=1)
    coco = json.loads(Path("d.json").read_text())
    return {
        "jsonl": lines(Path("d.jsonl").read_text()),
        "csv": table("d.csv"),
        "coco": {key: coco[key] for key in ("images", "annotations", "categories")},
        "crops": files("crops"),
        "overlays": files("drawn"),
        "fasterrcnn": lines(outfinder("detect", "street", "--detector", "fasterrcnn_mobilenet_v2")),
    }


def search() -> Any:
    """A gallery of each crop, searched: JSON lines, CSV and the report."""
    outfinder("index", "shop-box", "shop.csv")
    outfinder("index", "shop-mask", "shop.csv", "--crop", "mask", "--vectors", "int8")
    report = ("--report", "report")
    outfinder("search", "shop-box", "street", "-k", 4, "-o", "s.jsonl", *report)
    outfinder("search", "shop-box", "street", "-k", 2, "--same-label", "-o", "s.csv")
    some = ("--min-similarity", 0.2, "--where", "price < 100 and category in (shoes, bag)")
    page = Path("report/index.html").read_text(encoding="utf-8")
    return {
        "jsonl": lines(Path("s.jsonl").read_text()),
        "csv": table("s.csv"),
        "mask": lines(outfinder("search", "shop-mask", "street/0002.jpg")),
        "where": lines(outfinder("search", "shop-box", "street/0001.jpg", *some)),
        "report": outline(page) | {"pictures": len(files("report/pictures"))},
        "compare": outfinder("compare", "shop/bag-01/front.jpg", "shop/bag-01/back.jpg").split(),
        "list": outfinder("gallery", "list", "shop-box", "--where", "category = boots or item = 'hat-01'").split(),
    }


def http() -> Any:
    """The schema of the HTTP API, and an answer of each kind."""
    outfinder("index", "served", "shop.csv")
    command = [sys.executable, "-m", "pipeline", "serve", "served", "--port", "0", "--timeout", "120"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = next(
                word.rstrip("/") for line in server.stderr for word in line.split() if word.startswith("http://")
            )
            photo = Path("street/0001.jpg").read_bytes()
            told = {
                "search": asked(f"{address}/search?k=3", photo),
                "detect": asked(f"{address}/detect", photo),
                "embed": asked(f"{address}/embed", photo),
                "more": asked(f"{address}/search/item", json.dumps({"item": "bag-01", "k": 3}).encode()),
                "item": asked(f"{address}/items/bag-01"),
                "about": asked(f"{address}/about"),
            }
            schema = asked(f"{address}/openapi.json")
        finally:
            server.terminate()
    return {"schema": dict(routes(schema)), "answers": told}


def asked(url: str, body: bytes | None = None) -> Any:
    kind = {"Content-Type": "application/json" if body and body.startswith(b"{") else "image/jpeg"} if body else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, kind), timeout=120) as answer:
        return json.load(answer)


def routes(schema: Any) -> Iterator[tuple[str, Any]]:
    """Parameters, bodies and fields of the answers, by method and path."""
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            yield (
                f"{method} {path}",
                {
                    "parameters": {one["name"]: one["in"] for one in route.get("parameters", [])},
                    "body": {
                        kind: fields(one.get("schema"), schema)
                        for kind, one in route.get("requestBody", {}).get("content", {}).items()
                    },
                    "answers": {
                        status: {
                            kind: fields(one.get("schema"), schema) for kind, one in answer.get("content", {}).items()
                        }
                        for status, answer in route["responses"].items()
                    },
                },
            )


def fields(part: Any, schema: Any) -> Any:
    """The names of a schema's properties, nested; names of types do not count."""
    part = part or {}
    if "$ref" in part:
        part = schema["components"]["schemas"][part["$ref"].rpartition("/")[2]]
    found = {name: fields(one, schema) for name, one in part.get("properties", {}).items()}
    for one in [part.get("items"), part.get("additionalProperties"), *part.get("anyOf", ())]:
        if isinstance(one, dict):
            found |= fields(one, schema)
    return found


def detector_training() -> Any:
    """The losses of twenty steps, one thread."""
    return {"losses": losses_of("train", "detector", "street.json", "street", "-o", "run", *DETECTOR_OPTIONS.split())}


def embedder_training() -> Any:
    """The losses of twenty steps, one thread; from shipped weights, and another loss from scratch."""
    scratch = EMBEDDER_OPTIONS.replace("siamese", "scratch").split()
    return {
        "infonce": losses_of("train", "embedder", "shop.csv", "-o", "one", *EMBEDDER_OPTIONS.split()),
        "triplet": losses_of("train", "embedder", "shop.csv", "-o", "two", *scratch, "--set", "loss.name=triplet",
                             "--set", "miner=semi-hard", "--set", "backbone=small", "--set", "pooling=average"),
    }  # fmt: skip


def losses_of(*arguments: str) -> list[float]:
    python("-c", LOSSES_OF_STEPS, "losses.json", *arguments)
    losses: list[float] = json.loads(Path("losses.json").read_text())
    assert len(losses) == STEPS, f"{len(losses)} steps"
    return losses


def evaluation() -> Any:
    """The figures of both evaluations."""
    shop = Path("shop.csv").read_text().replace(",category,", ",label,")
    Path("labelled.csv").write_text(shop)
    return {
        "detector": json.loads(outfinder("evaluate", "detector", "street.json", "street", "--json", "-")),
        "embedder": json.loads(
            outfinder("evaluate", "embedder", "labelled.csv", "--ways", 5, "--trials", 200, "--json", "-")
        ),
    }


def crop_benchmark() -> Any:
    """Figures and differences on garments that are worn and the same in the shop."""
    crops_csv()
    small = ("--detector", "maskrcnn_mobilenet_v2", "--embedder", "siamese")
    told = json.loads(
        outfinder("benchmark", "crops", "--quick", "--data", "crops.csv", *small, "--json", "-", "-o", "page")
    )
    return {
        "figures": told["figures"],
        "differences": told["differences"],
        "data": told["data"],
        "page": sorted(Path(one).suffix for one in files("page"))[:1],
    }


def crops_csv() -> None:
    """Garments of the street with their boxes and masks, and the photos of the shop."""
    import cv2
    from pycocotools.coco import COCO

    coco = COCO("street.json")
    with Path("crops.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["photo", "item_id", "label", "box", "mask"])
        for one in coco.anns.values():
            label = coco.cats[one["category_id"]]["name"]
            x, y, w, h = map(round, one["bbox"])
            cv2.imwrite(f"mask-{one['id']}.png", coco.annToMask(one) * 255)
            photo = f"street/{coco.imgs[one['image_id']]['file_name']}"
            rows.writerow([photo, one["item_id"], label, f"{x} {y} {x + w} {y + h}", f"mask-{one['id']}.png"])
        for photo in sorted(Path("shop").rglob("*.jpg")):
            item = photo.parent.name
            rows.writerow([photo, item, item.rpartition("-")[0], "0 0 224 224", ""])


SECTIONS: dict[str, Callable[[], Any]] = {
    one.__name__: one
    for one in (detect, search, http, detector_training, embedder_training, evaluation, crop_benchmark)
}


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def table(file: str) -> list[dict[str, str]]:
    with Path(file).open(encoding="utf-8-sig", newline="") as rows:
        return list(csv.DictReader(rows))


def files(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("[!.]*") if path.is_file())


class Outline(HTMLParser):
    """Headings, and how often each tag that carries meaning occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.tags: Counter[str] = Counter()
        self._within = ""

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        del attributes
        self.tags[tag] += tag in ("article", "img", "table", "h1", "h2", "h3")
        if tag in ("h1", "h2", "h3"):
            self._within = tag
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._within:
            self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within:
            self.headings[-1] += data


def outline(page: str) -> dict[str, Any]:
    """The structure of a page."""
    parser = Outline()
    parser.feed(page)
    return {"headings": parser.headings, "tags": dict(+parser.tags)}


def plain(value: Any, key: str = "") -> Any:
    """What is recorded of an output: no paths of this run, no words of errors, no times; masks as their area."""
    if key == "error":
        return bool(value)
    if value and (key == "segmentation" or (isinstance(value, dict) and {"counts", "size"} <= value.keys())):
        return {"area": area_of(value)}
    if isinstance(value, dict):
        kept = {name: one for name, one in value.items() if not any(part in name.split("_") for part in UNRECORDED)}
        return {name: plain(one, name) for name, one in kept.items()}
    if isinstance(value, list):
        return [plain(one, key) for one in value]
    if isinstance(value, str):
        return value.replace(str(Path.cwd()) + "/", "")
    return round(value, 5) if isinstance(value, float) else value


def area_of(mask: Any) -> int:
    from pycocotools import mask as masks

    if isinstance(mask, list):  # polygons
        turns = [list(zip(one[::2], one[1::2], strict=True)) for one in mask]
        return round(sum(abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise([*one, one[0]]))) / 2 for one in turns))
    runs = masks.frPyObjects(mask, *mask["size"]) if isinstance(mask["counts"], list) else mask
    return int(masks.area(runs))


def differences(was: Any, now: Any, where: str = "", key: str = "") -> Iterator[str]:
    """A line for each difference."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name, one in was.items():
            if name in now:
                yield from differences(one, now[name], f"{where}.{name}", name)
            else:
                yield f"{where}.{name}: lost (was {json.dumps(one)[:80]})"
    elif isinstance(was, list) and isinstance(now, list):
        if len(was) != len(now):
            yield f"{where}: {len(was)} entries were, {len(now)} are"
        for place, (one, other) in enumerate(zip(was, now, strict=False)):
            yield from differences(one, other, f"{where}[{place}]", key)
    elif not same(was, now, key):
        yield f"{where}: was {was!r}, is {now!r}"


def same(was: Any, now: Any, key: str) -> bool:
    if isinstance(was, bool) or was is None or now is None or isinstance(now, bool):
        return bool(was == now)
    try:
        first, second = float(was), float(now)
    except (TypeError, ValueError):
        return bool(was == now)
    if key == "area":
        return math.isclose(first, second, rel_tol=AREA, abs_tol=20)
    if key in ("box", "bbox", "x1", "y1", "x2", "y2"):
        return abs(first - second) <= PIXELS
    return math.isclose(first, second, abs_tol=LOSSES if key == "losses" else SCORES)


def main() -> None:
    mode, *names = sys.argv[1:] or [""]
    if mode not in ("record", "compare") or set(names) - SECTIONS.keys():
        sys.exit(f"usage: python tests/golden.py record|compare [{'|'.join(SECTIONS)} ...]")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    failed = 0
    for name in names or SECTIONS:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(HERE / "input", Path(folder) / "input")
            os.chdir(Path(folder) / "input")
            now = json.loads(json.dumps(plain(SECTIONS[name]())))
            os.chdir(HERE)
        file = HERE / f"{name}.json"
        if mode == "record":
            file.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
            print(f"{name}: recorded")
            continue
        found = list(differences(json.loads(file.read_text()), now))
        print(f"{name}: {len(found)} differences" if found else f"{name}: same")
        print("".join(f"  {line}\n" for line in found[:40]), end="")
        failed += len(found)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
