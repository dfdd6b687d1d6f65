"""Training of embedders: starting weights, the teacher of a distilled run, and the trainer."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model_weights

import weights
from stages.checkpoints import copy_fitting, read_start
from stages.embed.backbones import OURS, backbone_tensors
from stages.embed.inputs import Normalise
from stages.embed.losses import Relations
from stages.embed.network import PREFIX, Design, SiameseNetwork
from stages.embed.sampling import Batch, BatchSource
from stages.errors import WeightsError
from stages.training import Recipe, Trainer, ahead
from stages.types import Image
from weights import Checkpoint

SCRATCH, IMAGENET = "scratch", "imagenet"

LOSS_TERMS: Final = ("item", "style", "shape", "colour", "distill")
"""The terms of a loss; with several, a log has each as ``loss_TERM``."""

NEEDS_COLOURS: Final = "shape_weight and colour_weight need a network with colours; give it a colour_dim"

_TEACHER_TEMPERATURE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderRecipe(Recipe):
    """How to train an embedder, besides what :class:`~stages.training.Recipe` says.

    Attributes:
        steps: of the run.
        lr_loss: peak learning rate of the loss's own parameters, such as proxies.
        style_weight: weight of the same loss one level up, where other identities of a style are positives.
        shape_weight: weight of the same loss on vectors without their colours, where all of a style are positives.
        colour_weight: weight of the same loss on the colours alone.
        distill_weight: weight of the :class:`Teacher`'s loss, which keeps similarities near those of the start.
        frozen_blocks: number of first blocks of the backbone that stay as they are.
        batch_norm: whether batch norm follows the batches, or keeps its statistics, as it should if they come from
            ImageNet.
    """

    steps: int = 1000
    lr_loss: float = 1e-2
    style_weight: float = 0.0
    shape_weight: float = 0.0
    colour_weight: float = 0.0
    distill_weight: float = 0.0
    frozen_blocks: int = 0
    batch_norm: bool = True

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        if self.steps < 1:
            raise ValueError(f"a run has at least 1 step, got {self.steps}")


class EmbedderTrainer(Trainer[Batch]):
    """Trains a Siamese network.

    Args:
        network: as it starts, the same each time; trained in place, on its device.
        loss: one of :data:`~stages.embed.losses`; its own parameters are trained too.
        batches: gives the batch of each step; called from threads.
        recipe: of this run, the same each time that it is resumed.
        folder: of the run; created if necessary.

    Raises:
        ValueError: the recipe weighs shapes or colours, and the network has no colours.
        WeightsError: the folder holds the state of another run.
    """

    def __init__(
        self, network: SiameseNetwork, loss: nn.Module, batches: BatchSource, recipe: EmbedderRecipe, folder: Path
    ) -> None:
        if (recipe.shape_weight or recipe.colour_weight) and network.colours is None:
            raise ValueError(NEEDS_COLOURS)
        self._network, self._loss, self._source, self._settings = network, loss, batches, recipe
        self._normalise = Normalise(*network.design.stats)
        self._teacher = Teacher(network.features) if recipe.distill_weight else None
        set_train_mode(network, recipe)
        loss.to(next(network.parameters()).device)
        model = nn.ModuleDict({"network": network, "loss": loss})
        super().__init__(model, _groups(network, loss, recipe), recipe, recipe.steps, folder)

    def clipped(self) -> Iterable[nn.Parameter]:
        """Return the network's parameters; those of the loss are not clipped."""
        return self._network.parameters()

    def batches(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batches of some steps."""
        return ahead(self._source, range(start, stop), workers)

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted sum of the loss's terms, each term, and the mean similarities of the batch."""
        recipe, network = self._settings, self._network
        set_train_mode(network, recipe)
        pixels = self._normalise(list(batch.views)).to(self.device)
        with self.autocast():
            parts = network.parts(pixels)
            vectors = network.joined(parts)
            distilled = self._teacher.loss(pixels, vectors) if self._teacher else None
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
        if distilled is not None:
            terms["distill"] = recipe.distill_weight, distilled
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        report = {f"loss_{name}": value.item() for name, (_, value) in terms.items()} if len(terms) > 1 else {}
        return loss, report | _similarities(vectors.detach(), relations)


def set_train_mode(network: SiameseNetwork, recipe: EmbedderRecipe) -> None:
    """Put a network into training mode, except for what the recipe freezes."""
    network.train()
    if not recipe.batch_norm:
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
    for block in list(network.features.children())[: recipe.frozen_blocks]:
        block.eval().requires_grad_(requires_grad=False)


def _groups(network: SiameseNetwork, loss: nn.Module, recipe: EmbedderRecipe) -> list[dict[str, Any]]:
    """Return parameter groups by learning rate and decay; biases, norms and proxies do not decay."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            peak = recipe.lr_backbone if name.startswith("features.") else recipe.lr
            groups.setdefault((peak, recipe.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    result: list[dict[str, Any]] = [
        {"params": parameters, "lr": peak, "weight_decay": decay} for (peak, decay), parameters in groups.items()
    ]
    if proxies := list(loss.parameters()):
        result.append({"params": proxies, "lr": recipe.lr_loss, "weight_decay": 0.0})
    return result


def _similarities(vectors: Tensor, relations: Relations) -> dict[str, float]:
    """Return the mean cosine similarity of positives and of negatives; both near 1 announce a collapse."""
    unit = F.normalize(vectors)
    similar = unit @ unit.T
    masks = (("same", relations.positive), ("different", relations.negative))
    return {name: similar[mask].mean().item() for name, mask in masks if mask.any()}


class Teacher:
    """A frozen copy of a backbone, whose similarities between photos a network keeps while it learns.

    Probabilistic knowledge transfer (Passalis, Tefas, ECCV 2018), from the backbone as it starts: so training on a few
    items does not cost what ImageNet has taught about all others.

    Args:
        features: the backbone, from ``(n, 3, h, w)`` to ``(n, channels, h', w')`` or ``(n, channels)``.
    """

    def __init__(self, features: nn.Module) -> None:
        self._features = copy.deepcopy(features).eval().requires_grad_(requires_grad=False)

    def loss(self, images: Tensor, vectors: Tensor) -> Tensor:
        """Return the KL divergence of the neighbourhoods in a batch from the teacher's; 0 if they agree.

        The neighbourhood of an image is the softmax of its cosine similarities to all others of the batch; the
        teacher's features are averaged over positions, less the batch's mean, which any two photos share.

        Args:
            images: ``(n, 3, h, w)`` normalised float, n at least 2.
            vectors: ``(n, dim)``, what the learning network makes of them.
        """
        with torch.no_grad():
            features = self._features(images).float()
            pooled = features.mean(dim=(-2, -1)) if features.ndim > 2 else features
            known = _neighbourhoods(pooled - pooled.mean(dim=0))
        return F.kl_div(_neighbourhoods(vectors.float()), known, reduction="batchmean", log_target=True)


def _neighbourhoods(vectors: Tensor) -> Tensor:
    """Return log-softmaxed similarities of each row to all others, ``(n, n - 1)``."""
    unit = F.normalize(vectors)
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    similar = (unit @ unit.T)[others].view(len(unit), -1)
    return (similar / _TEACHER_TEMPERATURE).log_softmax(dim=1)


def start_from(network: SiameseNetwork, start: str) -> list[str]:
    """Copy all weights of a start that fit a network into it; the rest stays random.

    Args:
        network: changed in place.
        start: ``scratch``, ``imagenet`` for torchvision's weights (downloaded on first use), the name of a shipped
            checkpoint, or a safetensors file: a Siamese checkpoint, or a classifier in torchvision's names.

    Returns:
        The names of the tensors that are still random.

    Raises:
        ValueError: there are no such weights.
        WeightsError: they cannot be read or downloaded, or nothing of them fits.
    """
    if start == SCRATCH:
        return sorted(network.state_dict())
    backbone = network.design.backbone
    error = f"nothing in {start} fits {backbone}; name weights of that backbone, or {SCRATCH}"
    return copy_fitting(network, _start_tensors(backbone, start), error)


def design_of(start: str) -> Design | None:
    """Return the design of a start that is a Siamese checkpoint; None for any other.

    Raises:
        ValueError: there are no such weights.
        WeightsError: they cannot be read.
    """
    if start in (SCRATCH, IMAGENET):
        return None
    checkpoint = read_start(start, (SCRATCH, IMAGENET))
    return Design.of(checkpoint) if _is_siamese(checkpoint) else None


def fit_colours(network: SiameseNetwork, images: Iterable[Sequence[Image]]) -> None:
    """Start a network's colours from the principal components of some images' colours, if it has colours.

    Args:
        network: changed in place.
        images: batches of square images of one size.

    Raises:
        ValueError: there are not more images than numbers of colour.
    """
    if network.colours is not None:
        normalise = Normalise(*network.design.stats)
        network.colours.fit(normalise(batch) for batch in images)


def _is_siamese(checkpoint: Checkpoint) -> bool:
    return checkpoint.metadata.get("architecture", "").startswith(PREFIX)


def _start_tensors(backbone: str, start: str) -> dict[str, Tensor]:
    if start == IMAGENET:
        return _in_features(backbone, _imagenet(backbone))
    checkpoint = read_start(start, (SCRATCH, IMAGENET))
    return checkpoint.tensors if _is_siamese(checkpoint) else _in_features(backbone, checkpoint.tensors)


def _in_features(backbone: str, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"features.{name}": value for name, value in backbone_tensors(backbone, classifier).items()}


def _imagenet(backbone: str) -> Mapping[str, Tensor]:
    if backbone in OURS:
        raise ValueError(f"there are no ImageNet weights for {backbone}; start from {SCRATCH} or a file")
    try:
        return weights.read_torchvision(get_model_weights(backbone).DEFAULT)
    except OSError as error:
        raise WeightsError(
            f"torchvision's weights of {backbone} cannot be downloaded ({error}); name a safetensors file of them"
        ) from error
