"""Bytes and JSON that are nearly right, and the one way in which they may be refused."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from stages.errors import CatalogueError

EXAMPLES = int(os.environ.get("FUZZ", "40"))
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 40, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@st.composite
def nearly(draw, whole):
    """Bytes that were right, with a few stretches changed, taken out, put in, doubled or cut off."""
    data = bytearray(draw(st.sampled_from(whole)) if isinstance(whole, list) else whole)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, min(len(data) - 1, draw(st.sampled_from([8, 64, 512, 1 << 30]))))))
        length = draw(st.sampled_from([1, 1, 2, 4, 30]))
        match draw(st.sampled_from("xxxixdc")):
            case "x":
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "i":
                data[at:at] = draw(st.sampled_from([b"\0" * 8, b"\xff" * 8, b"9" * 20, b'"', b"\x80"]))
            case "d":
                data[at:at] = data[at : at + 20 * length]
            case "c":
                del data[at:]
    return bytes(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from([0, 1, -1, 2**31, 2**63, 10**12, "", "..", "/etc/passwd", "a\0b", [], {}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def changed(draw, whole):
    """A JSON value with some of its parts replaced, taken out or put in."""
    value = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        place, within = value, None
        while isinstance(place, dict | list) and place and draw(st.integers(0, 5)):
            within, key = place, draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
            place = place[key]
        if within is None:
            return draw(json_values) if not draw(st.integers(0, 9)) else value
        if draw(st.booleans()) or isinstance(within, list):
            within[key] = draw(json_values)
        else:
            del within[key]
    return value


@contextmanager
def may_refuse(kind):
    """What happens within may be refused by an error of this kind, which says something, in printable characters."""
    told = "nothing was refused"
    try:
        yield
    except kind as error:
        told = str(error)
    assert told
    assert len(told.splitlines()) == 1 or kind is CatalogueError
