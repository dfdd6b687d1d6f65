"""What all pages share: colours, templates that escape, the script that a page allows."""

import base64
import hashlib
import re

import numpy as np

from pipeline.pages import COLORS, color_of, environment, render
from stages.types import LABELS, WHOLE


def test_white_text_can_be_read_on_every_color():
    assert set(COLORS) == {*LABELS, WHOLE}
    assert len(set(COLORS.values())) == len(COLORS)
    for label in (*COLORS, "kimono"):
        channels = np.array([int(color_of(label)[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5, label


def test_a_page_allows_its_own_script_and_no_other():
    page = render("page.html", title="<b>", interactive=True)
    script = re.search("<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "<title>&lt;b&gt;</title>" in page
    quiet = render("page.html", title="quiet")
    assert "script-src 'none'" in quiet
    assert "<script" not in quiet


def test_a_table_sets_intervals_smaller_and_escapes_its_cells():
    macros = environment().get_template("macros.html").module
    table = macros.table(["", "recall"], [["<top>", "0.5 [0.4, 0.6]"], ["all", 0.25], ["none", None]], bars=(1,))
    assert '<th scope="row">&lt;top&gt;</th>' in table
    assert "<td>0.5<small>[0.4, 0.6]</small></td>" in table
    assert "--share: 25.0%" in table
    assert "</i>0.250</td>" in table
    assert "<td>–</td>" in table


def test_long_lists_of_notices_are_cut():
    macros = environment().get_template("macros.html").module
    notices = macros.notices("Not judged", [f"photo {number}" for number in range(60)])
    assert "photo 49" in notices
    assert "photo 50" not in notices
    assert "and 10 more, all in figures.json" in notices
    assert not macros.notices("Not judged", []).strip()
