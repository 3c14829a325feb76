"""Networks by name, with their weights.

`catalogue` knows every name: the shipped `families`, torchvision's networks, those of timm (`timm_models`), and a
user's own factory. `weights` reads trained weights safely and names them by a fingerprint.
"""
