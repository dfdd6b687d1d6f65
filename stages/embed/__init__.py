"""Image → unit vector: the Siamese network, its training, and features of any torchvision classifier."""
