"""Training of embedders: starting weights, the trainer, validation, and whitening of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.checkpoints import copy_fitting, read_start
from stages.embed.data import Dataset, Ints
from stages.embed.inputs import Normalise
from stages.embed.layers import OURS, UNIT, backbone_tensors, check_name, imagenet_tensors
from stages.embed.losses import Relations
from stages.embed.metrics import (
    Retrieval,
    SimilarityFunction,
    cosine,
    error_rates,
    is_collapsed,
    one_shot,
    precomputed,
    retrieve,
    sample_pairs,
)
from stages.embed.network import PREFIX, Design, SiameseNetwork
from stages.embed.sampling import Batch, BatchSource
from stages.embed.siamese import pair_similarities, vectors_of
from stages.training import Recipe, Trainer, ahead
from stages.types import Image, Vectors
from weights import Checkpoint

SCRATCH, IMAGENET = "scratch", "imagenet"

LOSS_TERMS: Final = ("item", "style", "shape", "colour")
"""The terms of a loss; with several, a log has each as ``loss_TERM``."""

NEEDS_COLOURS: Final = "shape_weight and colour_weight need a network with colours; set colour_dim"

WHITENING_POWER: Final = 0.4  # the power of the shipped embedder, chosen on halves of the training data
FULL_WHITENING: Final = 0.5  # the power that gives all larger components the same variance
LEAST_VARIANCE: Final = 0.02
"""The share of the largest variance that is added to each, which keeps components of noise small."""

_MIN_SPREAD: Final = 1e-4  # a pair head has collapsed if the standard deviation of its probabilities is below this


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderRecipe(Recipe):
    """The hyperparameters of an embedder's training, besides those of :class:`~stages.training.Recipe`."""

    steps: int = 1000
    lr_loss: float = 1e-2  # peak learning rate of the loss's parameters, such as proxies
    style_weight: float = 0.0  # of the loss one level up, where other identities of a style are positives
    shape_weight: float = 0.0  # of the loss on vectors without colours, where all of a style are positives
    colour_weight: float = 0.0  # of the loss on colours alone
    frozen_blocks: int = 0  # the first blocks of the backbone, which are not trained
    batch_norm: bool = True  # update batch-norm statistics; better off if they come from ImageNet

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        if self.steps < 1:
            raise ValueError(f"a run needs at least 1 step, got {self.steps}")


class EmbedderTrainer(Trainer[Batch]):
    """Trains a Siamese network in place, on its device.

    Args:
        network: in its initial state, the same each time that the run is resumed.
        loss: from :mod:`stages.embed.losses`; its parameters are trained as well.
        batches: returns the batch of each step; called from threads.
        recipe: the same each time that the run is resumed.
        folder: of the run; created if necessary.

    Raises:
        ValueError: the recipe weights shapes or colours, and the network has no colours.
        WeightsError: the folder holds the state of another run.
    """

    def __init__(
        self, network: SiameseNetwork, loss: nn.Module, batches: BatchSource, recipe: EmbedderRecipe, folder: Path
    ) -> None:
        if (recipe.shape_weight or recipe.colour_weight) and network.colours is None:
            raise ValueError(NEEDS_COLOURS)
        self._network, self._loss, self._source, self._settings = network, loss, batches, recipe
        self._normalise = Normalise(*network.design.stats)
        self._set_train_mode()
        loss.to(next(network.parameters()).device)
        model = nn.ModuleDict({"network": network, "loss": loss})
        super().__init__(model, self._groups(), recipe, recipe.steps, folder)

    def clipped(self) -> Iterable[nn.Parameter]:
        """Return the network's parameters; gradients of the loss's parameters are not clipped."""
        return self._network.parameters()

    def batches(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batches of the steps from ``start`` to ``stop``."""
        return ahead(self._source, range(start, stop), workers)

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted sum of the loss's terms; log each term and the mean similarities of the batch."""
        recipe, network = self._settings, self._network
        self._set_train_mode()
        pixels = self._normalise(list(batch.views)).to(self.device)
        with self.autocast():
            parts = network.parts(pixels)
            vectors = network.joined(parts)
        relations = batch.relations(self.device)
        terms = {"item": (1.0, self._loss(vectors, relations))}
        if recipe.style_weight:
            styles = torch.from_numpy(batch.styles).to(self.device)
            terms["style"] = recipe.style_weight, self._loss(vectors, relations.above(styles))
        if recipe.shape_weight:
            by_style = batch.relations(self.device, by_style=True)
            terms["shape"] = recipe.shape_weight, self._loss(parts.shapes, by_style)
        if recipe.colour_weight and parts.colours is not None:
            terms["colour"] = recipe.colour_weight, self._loss(parts.colours, relations)
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        report = {f"loss_{name}": value.item() for name, (_, value) in terms.items()} if len(terms) > 1 else {}
        return loss, report | _similarities(vectors.detach(), relations)

    def _set_train_mode(self) -> None:
        """Put the network into training mode, except for what the recipe freezes."""
        self._network.train()
        if not self._settings.batch_norm:
            for layer in self._network.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        for block in list(self._network.features.children())[: self._settings.frozen_blocks]:
            block.eval().requires_grad_(requires_grad=False)

    def _groups(self) -> list[dict[str, Any]]:
        """Return parameter groups by learning rate and weight decay; biases, norms and proxies do not decay."""
        recipe = self._settings
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, parameter in self._network.named_parameters():
            if parameter.requires_grad:
                peak = recipe.lr_backbone if name.startswith("features.") else recipe.lr
                groups.setdefault((peak, recipe.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
        result: list[dict[str, Any]] = [
            {"params": parameters, "lr": peak, "weight_decay": decay} for (peak, decay), parameters in groups.items()
        ]
        if proxies := list(self._loss.parameters()):
            result.append({"params": proxies, "lr": recipe.lr_loss, "weight_decay": 0.0})
        return result


def _similarities(vectors: Tensor, relations: Relations) -> dict[str, float]:
    """Return the mean cosine similarity of positives and of negatives; both near 1 announce a collapse."""
    unit = F.normalize(vectors)
    similar = unit @ unit.T
    masks = (("same", relations.positive), ("different", relations.negative))
    return {name: similar[mask].mean().item() for name, mask in masks if mask.any()}


def start_from(network: SiameseNetwork, start: str) -> list[str]:
    """Copy the weights of a start that fit into a network; the rest stays random.

    Args:
        network: changed in place.
        start: ``scratch``, ``imagenet`` for torchvision's weights (downloaded on first use), the name of a shipped
            checkpoint, or a safetensors file: a Siamese checkpoint, or a classifier with torchvision's tensor names.

    Returns:
        The names of the tensors that are still random.

    Raises:
        ValueError: there are no such weights.
        WeightsError: they cannot be read or downloaded, or none of them fits.
    """
    if start == SCRATCH:
        return sorted(network.state_dict())
    backbone = network.design.backbone
    if start == IMAGENET:
        if backbone in OURS:
            raise ValueError(f"there are no ImageNet weights for {backbone}; start from {SCRATCH} or a file")
        tensors, is_classifier = imagenet_tensors(backbone), True
    else:
        checkpoint = read_start(start, (SCRATCH, IMAGENET))
        tensors, is_classifier = checkpoint.tensors, not _is_siamese(checkpoint)
    if is_classifier:
        tensors = {f"features.{name}": value for name, value in backbone_tensors(backbone, tensors).items()}
    error = f"nothing in {start} fits {backbone}; name weights of that backbone, or {SCRATCH}"
    return copy_fitting(network, tensors, error)


def design_of(start: str) -> Design | None:
    """Return the design of a start that is a Siamese checkpoint; None for any other."""
    if start in (SCRATCH, IMAGENET):
        return None
    checkpoint = read_start(start, (SCRATCH, IMAGENET))
    return Design.of(checkpoint) if _is_siamese(checkpoint) else None


def _is_siamese(checkpoint: Checkpoint) -> bool:
    return checkpoint.metadata.get("architecture", "").startswith(PREFIX)


def fit_colours(network: SiameseNetwork, images: Iterable[Sequence[Image]]) -> None:
    """Initialise a network's colours, if it has any, by the principal components of the colours of square images."""
    if network.colours is not None:
        normalise = Normalise(*network.design.stats)
        network.colours.fit(normalise(batch) for batch in images)


@dataclass(frozen=True, slots=True)
class Validator:
    """Computes a metric of :data:`METRICS` on loaded photos that the network is not trained on.

    With a query domain, its photos are queries and all others the gallery; otherwise, every photo is both.
    """

    data: Dataset
    metric: str = "recall@1"
    query_domain: str = ""

    def __post_init__(self) -> None:
        check_name("metric", self.metric, METRICS)

    def __call__(self, network: SiameseNetwork) -> float | None:
        """Return the metric, in [0, 1], higher is better; None if the network has collapsed or its output is not finite."""
        device = str(next(network.parameters()).device)
        vectors = training_vectors(network, self.data.images)
        if not np.isfinite(vectors).all():
            return None
        if network.pair_head is None:
            unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            similarity, collapsed = cosine(unit), is_collapsed(unit)
        else:
            probabilities = pair_similarities(network.pair_head, vectors, vectors, device)
            similarity = precomputed(probabilities)
            collapsed = float(probabilities.std(dtype=np.float64)) < _MIN_SPREAD
        return None if collapsed else float(METRICS[self.metric](similarity, self))

    def retrieve(self, similarity: SimilarityFunction, labels: Ints) -> Retrieval:
        """Return the retrieval of all queries; ``labels`` are equal for photos that are relevant to each other."""
        if not self.query_domain:
            return retrieve(similarity, labels)
        queries = self.data.in_domain(self.query_domain)
        return retrieve(similarity, labels, queries, ~queries)


METRICS: Final[Mapping[str, Callable[[SimilarityFunction, Validator], Any]]] = {
    "recall@1": lambda similarity, by: by.retrieve(similarity, by.data.item_ids).hits(1).mean(),
    "recall@5": lambda similarity, by: by.retrieve(similarity, by.data.item_ids).hits(5).mean(),
    "style-recall@1": lambda similarity, by: by.retrieve(similarity, by.data.style_ids).hits(1).mean(),
    "map@r": lambda similarity, by: by.retrieve(similarity, by.data.item_ids).average_precisions.mean(),
    "auc": lambda similarity, by: (
        error_rates(sample_pairs(similarity, by.data.item_ids, by.data.domain_ids if by.query_domain else None)).auc
    ),
    "one-shot": lambda similarity, by: one_shot(
        similarity, by.data.item_ids, min(20, len(by.data.items)), trials=2000
    ).hits.mean(),
}
"""Validation metrics by name."""


def training_vectors(network: SiameseNetwork, images: Sequence[Image], *, unit: bool = False) -> Vectors:
    """Embed images by a network in training, ``(n, dim)``, and leave it in evaluation mode."""
    device = str(next(network.parameters()).device)
    return vectors_of(network.eval(), images, Normalise(*network.design.stats), device, 32, unit=unit)


def whiten(network: SiameseNetwork, sets: Sequence[Sequence[Image]], power: float = WHITENING_POWER) -> Vectors:
    """Even out the variances of a network's components, in place, so that large ones do not drown the others.

    Jégou and Chum 2012 whiten descriptors by their principal components. Here, each component of shapes and of colours
    is divided by ``(variance / largest variance + 0.02) ** power``. Components are sorted by variance, the largest
    first, so that vectors can be truncated. Only the weights of the last layers change, because these are linear.

    Args:
        network: trained; left in evaluation mode.
        sets: photos to fit the components to; all sets have the same weight.
        power: 0 only rotates vectors, :data:`FULL_WHITENING` whitens fully.

    Returns:
        The vectors of all photos before whitening, ``(n, dim)``. If they are all equal, whitening only amplifies noise;
        if they are not finite, the network is unchanged.
    """
    check_whitens(network.design, sum(map(len, sets)), power)
    ends = [[module for module in network.head.modules() if isinstance(module, nn.Linear)][-1]]  # before normalisation
    ends += [] if network.colours is None else [network.colours.project]
    before, outputs = [], []
    for images in filter(len, sets):
        kept: list[list[Tensor]] = [[] for _ in ends]
        hooks = [
            end.register_forward_hook(lambda _, __, output, rows=rows: rows.append(output.cpu().double()))
            for end, rows in zip(ends, kept, strict=True)
        ]
        try:
            before.append(training_vectors(network, images, unit=True))
        finally:
            for hook in hooks:
                hook.remove()
        outputs.append([torch.cat(rows) for rows in kept])
    vectors = np.concatenate(before)
    if np.isfinite(vectors).all():
        for end, of_sets in zip(ends, zip(*outputs, strict=True), strict=True):
            _whiten(end, of_sets, power)
    return vectors


def check_whitens(design: Design, photos: int | None = None, power: float = WHITENING_POWER) -> None:
    """Raise a ValueError if a network cannot be whitened by this power and this many photos, or by any if None."""
    if not 0 <= power <= FULL_WHITENING:
        raise ValueError(f"the whitening power must be between 0 and {FULL_WHITENING}, got {power}")
    if design.head not in UNIT or design.pair_head:
        raise ValueError("whitening is for vectors of unit length that no pair head compares")
    if photos is not None and photos <= design.dim:
        raise ValueError(f"whitening {design.dim} dimensions takes more than {design.dim} photos, got {photos}")


@torch.no_grad()
def _whiten(end: nn.Linear, of_sets: Sequence[Tensor], power: float) -> None:
    middle = torch.stack([rows.mean(dim=0) for rows in of_sets]).mean(dim=0)
    spread = torch.stack([(rows - middle).T @ (rows - middle) / len(rows) for rows in of_sets]).mean(dim=0)
    variances, components = torch.linalg.eigh(spread)  # ascending
    variances, components = variances.flip(0).clamp(min=0), components.flip(1)
    least = torch.finfo(variances.dtype).tiny
    rotated = components.T / ((variances / variances[0].clamp(min=least) + LEAST_VARIANCE) ** power)[:, None]
    weight, bias = (parameter.cpu().double() for parameter in (end.weight, end.bias))
    end.weight.copy_((rotated @ weight).float())
    end.bias.copy_((rotated @ (bias - middle)).float())
