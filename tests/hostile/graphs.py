"""Hostile HNSW graphs: nearly right ones, and ones that are laid out rightly and mean harm."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from random import Random

from stages.index.hnswfile import LAYOUT, Header

ODD = [0, 1, 2, 3, 0xFF, 0x100, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]


@dataclass
class Graph:
    """A saved graph taken apart: what is changed in it comes back as a file."""

    header: Header
    records: list[bytearray]
    above: list[bytearray]
    tail: bytes = b""
    sizes: dict[int, int] = field(default_factory=dict)
    """What is told of the bytes above an element, where that is a lie."""

    @classmethod
    def of(cls, data: bytes) -> Graph:
        header = Header(*LAYOUT.unpack(data[: LAYOUT.size]))
        at = LAYOUT.size
        records = []
        for _ in range(header.elements):
            records.append(bytearray(data[at : at + header.record_bytes]))
            at += header.record_bytes
        above = []
        for _ in range(header.elements):
            (size,) = struct.unpack_from("<I", data, at)
            above.append(bytearray(data[at + 4 : at + 4 + size]))
            at += 4 + size
        return cls(header, records, above)

    def data(self) -> bytes:
        told = [struct.pack("<I", self.sizes.get(place, len(links))) + links for place, links in enumerate(self.above)]
        return LAYOUT.pack(*self.header) + b"".join([*self.records, *told]) + self.tail

    def lists(self) -> list[tuple[bytearray, int, int, int]]:
        """Where each list of links starts, how many it can hold, and its level."""
        upper = 4 + 4 * self.header.m
        found = [(record, 0, 2 * self.header.m, 0) for record in self.records]
        for links in self.above:
            found += [(links, at, self.header.m, 1 + at // upper) for at in range(0, len(links), upper)]
        return found

    def level(self, element: int) -> int:
        return len(self.above[element]) // (4 + 4 * self.header.m)


def damaged(graph: Graph, draw: Random) -> None:
    """Change a word somewhere to one that is odd: most are refused."""
    odd = draw.choice([*ODD, graph.header.elements, graph.header.elements - 1, graph.header.max_level + 1])
    element = draw.randrange(graph.header.elements)
    record, above = graph.records[element], graph.above[element]
    match draw.randrange(9):
        case 0:
            name = draw.choice(Header._fields)
            value = getattr(graph.header, name)
            changed = draw.choice([odd, value + 1, abs(value - 1), 2 * value])
            fits = changed if name == "level_factor" else int(changed) & 0x7FFFFFFF
            graph.header = graph.header._replace(**{name: fits})
        case 1:
            links, at, most, _ = draw.choice(graph.lists())
            struct.pack_into("<H", links, at, draw.choice([odd & 0xFFFF, most, most + 1]))
        case 2:
            links, at, most, _ = draw.choice(graph.lists())
            struct.pack_into("<I", links, at + 4 + 4 * draw.randrange(most), odd)
        case 3:
            value = draw.choice([float("nan"), float("inf"), -float("inf"), 1e30, 1e-30, 0.5])
            struct.pack_into(
                "<f", record, draw.randrange(graph.header.vector_offset, graph.header.label_offset, 4), value
            )
        case 4:
            struct.pack_into("<q", record, graph.header.label_offset, draw.choice([-1, 1, 2**62, -(2**63)]))
        case 5:
            graph.sizes[element] = draw.choice([odd, len(above) + 4, len(above) + 4 + 4 * graph.header.m])
        case 6:
            above += bytes(draw.choice([1, 4, 4 + 4 * graph.header.m]))
        case 7:
            graph.tail = bytes(draw.choice([1, 4, 100]))
        case 8:
            del above[draw.randrange(len(above) + 1) :]


def without_way(graph: Graph, draw: Random, share: float) -> None:
    """Lists of a level lead nowhere."""
    level = draw.randrange(4)
    for links, at, _, own in graph.lists():
        if own == level and draw.random() < share:
            struct.pack_into("<H", links, at, 0)


def leading_to_few(graph: Graph, draw: Random, share: float) -> None:
    """Lists are full of the same few elements, whose own are among them."""
    few = [draw.randrange(graph.header.elements) for _ in range(3)]
    for links, at, most, level in graph.lists():
        if draw.random() < share:
            able = [element for element in few if graph.level(element) >= level] or [graph.header.entry]
            struct.pack_into(f"<H2x{most}I", links, at, most, *draw.choices(able, k=most))


def removed(graph: Graph, draw: Random, share: float) -> None:
    for record in graph.records:
        record[2] |= draw.random() < share


def removed_but_one(graph: Graph, draw: Random, _: float) -> None:
    keep = draw.choice([graph.header.entry, draw.randrange(graph.header.elements)])
    for element, record in enumerate(graph.records):
        record[2] |= element != keep


def alike(graph: Graph, draw: Random, share: float) -> None:
    """Elements have the first one's vector."""
    vector = slice(graph.header.vector_offset, graph.header.label_offset)
    for record in graph.records:
        if draw.random() < share:
            record[vector] = graph.records[0][vector]


def twisted(graph: Graph, draw: Random) -> None:
    """Rewrite a share of the graph within what is allowed: nothing of it can be refused."""
    twist = draw.choice([without_way, leading_to_few, removed, removed_but_one, alike])
    twist(graph, draw, draw.choice([0.02, 0.3, 1.0]))
