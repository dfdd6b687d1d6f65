"""A renderer of shops and street scenes, drawn from a seed: photos without downloads or licences, with ground truth.

Every garment is defined once, as an :class:`~render_sample.items.Item`, and drawn twice: for the shop, worn by nobody
on a plain ground, and on the street, worn by a figure in a pose. Scenes come with the mask of every visible garment.
"""
