"""RoIAlign over a feature pyramid as one weighted sum of table rows: fast backward on a CPU.

RoIAlign: He, Gkioxari, Dollár, Girshick, ICCV 2017. Which level a box is pooled from: Lin et al., CVPR 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign

_SAMPLES = 2  # per bin and axis
_CANONICAL_PX = 224
_CANONICAL_LEVEL = 4


class PyramidRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]  # torchvision has no types
    """What torchvision's ``MultiScaleRoIAlign`` computes, made of one ``embedding_bag``.

    All levels of all images are laid out as one table of feature vectors. Bilinear sampling makes each output
    cell a weighted sum of at most 16 of its rows, so that a gradient runs over whole vectors, where torchvision's
    CPU kernel runs over single numbers: the backward pass is several times faster.

    Args:
        strides: of the pyramid's levels, in pixels, rising; powers of two.
        output_size: cells per side.
    """

    def __init__(self, strides: tuple[int, ...], output_size: int) -> None:
        super().__init__([str(level) for level in range(len(strides))], output_size, _SAMPLES)
        self.strides = strides

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], _sizes: list[tuple[int, int]]) -> Tensor:
        """Maps ``(n, c, h / s, w / s)`` and boxes ``(k, 4)`` in pixels to ``(sum of k, c, out, out)`` float32."""
        maps = [x[name] for name in self.featmap_names]
        channels, cells = maps[0].shape[1], self.output_size[0]
        table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in maps]).float()
        every = torch.cat(boxes)
        image = torch.cat([torch.full((len(b),), n, device=every.device) for n, b in enumerate(boxes)])
        if not len(every):
            return table.new_zeros(0, channels, cells, cells)
        rows, weights = self._samples(every.detach(), image, [(m.shape[2], m.shape[3]) for m in maps], len(boxes))
        pooled = F.embedding_bag(rows.flatten(1), table, mode="sum", per_sample_weights=weights.flatten(1))
        return pooled.view(-1, cells, cells, channels).permute(0, 3, 1, 2)

    def _samples(
        self, boxes: Tensor, image: Tensor, sizes: list[tuple[int, int]], images: int
    ) -> tuple[Tensor, Tensor]:
        """Table rows and their weights, each ``(boxes * cells * cells, 4, 4)``."""
        level = self._level(boxes)
        height, width = boxes.new_tensor(sizes, dtype=torch.long)[level].T
        areas = torch.tensor([h * w for h, w in sizes], device=boxes.device)
        starts = (areas.cumsum(0) - areas) * images
        first = starts[level] + image * areas[level]
        scale = 1 / boxes.new_tensor(self.strides)[level]
        x, x_weight = self._axis(boxes[:, 0] * scale, boxes[:, 2] * scale, width)
        y, y_weight = self._axis(boxes[:, 1] * scale, boxes[:, 3] * scale, height)
        row_start = first[:, None, None] + y * width[:, None, None]
        rows = row_start[:, :, None, :, None] + x[:, None, :, None, :]
        weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
        return rows.flatten(0, 2), weights.flatten(0, 2)

    def _level(self, boxes: Tensor) -> Tensor:
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        lowest = self.strides[0].bit_length() - 1
        level = torch.floor(_CANONICAL_LEVEL + torch.log2(side / _CANONICAL_PX) + 1e-6)
        return (level - lowest).clamp(0, len(self.strides) - 1).long()

    def _axis(self, low: Tensor, high: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Cells of a map that one axis of each output cell reads, and their weights: each ``(k, cells, 4)``."""
        cells = self.output_size[0]
        size = (high - low).clamp(min=1.0)
        steps = (torch.arange(cells * _SAMPLES, device=low.device) + 0.5) / (cells * _SAMPLES)
        at = low[:, None] + size[:, None] * steps
        last = (length - 1)[:, None]
        outside = (at < -1) | (at > length[:, None])
        at = at.clamp(min=0).minimum(last)
        below = at.floor().long()
        above = (below + 1).minimum(last)
        part = at - below
        inside = (~outside).float() / _SAMPLES
        index = torch.stack([below, above], -1).view(-1, cells, 2 * _SAMPLES)
        weight = torch.stack([(1 - part) * inside, part * inside], -1).view(-1, cells, 2 * _SAMPLES)
        return index, weight
