"""The readers of public sets, as items in memory."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from embed_cases import shop_photo

from stages.embed import sources
from stages.embed.loading import in_memory
from stages.embed.splits import luma_split, percentile_of
from stages.errors import CatalogueError


class TestSources:
    @staticmethod
    def write(folder: Path, *names: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            assert cv2.imwrite(str(folder / name), shop_photo((120, 30, 30)))

    def test_luma_items_are_sku_and_colour_and_splits_share_no_sku(self, tmp_path):
        skus = [f"mh{number:02}" for number in range(30)]
        names = [f"{sku}-{end}.jpg" for sku in skus for end in ("red_main", "red_back", "blue-0")]
        self.write(tmp_path, *names, "luma-yoga-strap-set.jpg", "lt01.jpg", "gift-card-virtual-custom.jpg")
        by_split = {split: in_memory(sources.luma(tmp_path, [split])) for split in ("train", "val", "test")}
        of = {split: {item.style for item in items} for split, items in by_split.items()}
        assert set.union(*of.values()) == {f"luma/{sku}" for sku in skus}
        assert sum(map(len, of.values())) == 30
        assert of["test"] == {f"luma/{sku}" for sku in skus if percentile_of(sku) < 40}
        assert {len(item.photos) for item in by_split["train"] if item.colour == "red"} == {2}
        assert {item.colour for item in by_split["train"]} == {"red", "blue"}

    def test_the_test_split_is_the_agreed_one(self):
        assert [luma_split(sku) for sku in ("mh01", "MH01", "wt09", "wp01")] == ["test", "test", "val", "train"]

    def test_shoes_are_pairs_of_a_photographer(self, tmp_path):
        self.write(
            tmp_path, *(f"u00{p}_{k}_{side}_m.jpg" for p in range(3) for k in (1, 2) for side in ("left", "right"))
        )
        pairs = in_memory(sources.shoes(tmp_path))
        assert [item.style for item in pairs] == [f"shoes/u00{p}_{k}_m" for p in range(3) for k in (1, 2)]
        assert {len(item.photos) for item in pairs} == {2}
        assert [item.source for item in pairs] == ["u000", "u000", "u001", "u001", "u002", "u002"]
        held, kept = in_memory(sources.shoes(tmp_path, ["val"])), in_memory(sources.shoes(tmp_path, ["train"]))
        assert not {item.source for item in held} & {item.source for item in kept}

    def test_clothing_is_split_by_its_id(self, tmp_path):
        ids = [f"photo{number}" for number in range(40)]
        self.write(tmp_path / "images", *(f"{name}.jpg" for name in ids))
        rows = [f"{name},7,Shirt,False" for name in [*ids, "absent"]]
        (tmp_path / "images.csv").write_text("\n".join(["image,sender_id,label,kids", *rows]))
        wanted = {f"clothing/{name}" for name in ids if 10 <= percentile_of(name) < 20}
        assert {item.style for item in in_memory(sources.clothing(tmp_path, ["val"]))} == wanted
        assert len(in_memory(sources.clothing(tmp_path, ["train"]))) == sum(percentile_of(name) >= 20 for name in ids)

    def test_says_what_is_no_set(self, tmp_path):
        with pytest.raises(CatalogueError, match="jpg"):
            sources.luma(tmp_path, ["train"])
        with pytest.raises(CatalogueError, match=r"images\.csv"):
            sources.clothing(tmp_path)
