"""A small shop and street scenes, drawn from a seed: an input without downloads or licences.

Every garment is defined once, as an :class:`Item`, and drawn twice: for the shop, worn by nobody on a plain
ground, and on the street, worn by a figure in a pose. Scenes come with the masks of all that is visible.
"""

from pipeline.sample.items import Item, make_items
from pipeline.sample.scene import Piece, Scene, choose_outfit, render_grounds, render_scene
from pipeline.sample.shop import VIEWS, render_item
from pipeline.sample.write import SampleSummary, render_sample, render_scenes

__all__ = [
    "VIEWS",
    "Item",
    "Piece",
    "SampleSummary",
    "Scene",
    "choose_outfit",
    "make_items",
    "render_grounds",
    "render_item",
    "render_sample",
    "render_scene",
    "render_scenes",
]
