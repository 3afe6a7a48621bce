"""imshow's ways: whatever people call an image, with a window or without."""

import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch


def as_float(image):
    """Float [C, H, W] in [0, 1], for whatever imshow takes."""
    if hasattr(image, "convert"):  # a PIL image, of any mode
        image = image.convert("RGB")
    if not isinstance(image, torch.Tensor):
        image = torch.from_numpy(np.array(image))
    image = image.detach().cpu()
    shape = list(image.shape)
    if image.dim() == 2:
        image = image[None]
    if image.dim() > 2 and image.shape[-3] not in (1, 3):
        image = image.movedim(-1, -3)
    if image.dtype == torch.uint8:
        image = image / 255
    if (image.dim() not in (3, 4) or image.shape[-3] not in (1, 3) or not image.numel()
            or not image.is_floating_point()):
        raise ValueError(f"an image is float or uint8 [1 or 3, H, W], not {image.dtype} {shape}")
    low, high = image.min(), image.max()
    if low < 0 or high > 1:
        warnings.warn("values outside of [0, 1], as of a normalised image: imshow scales them to "
                      "their own range", stacklevel=3)
        image = (image - low) / (high - low).clamp(min=1e-9)
    if image.dim() == 4:
        from torchvision.utils import make_grid
        image = make_grid(image)
    return image.float()


def new():
    """A figure and its axes."""
    try:
        return plt.subplots()
    except ImportError:  # a window was asked for, but there is no display
        plt.switch_backend("agg")
        return plt.subplots()


def show(figure, path):
    """Save it, where there is a path or no display; show it where there is one."""
    headless = plt.get_backend().lower() in ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")
    if headless or path:
        path = Path(path or "imshow.png")
        try:
            figure.savefig(path, format=path.suffix[1:] or "png", bbox_inches="tight")
            print(f"image saved as {path}")
        except OSError as error:
            print(f"imshow cannot save {path}: {error.strerror}", file=sys.stderr)
    if not headless:
        plt.show()
    plt.close(figure)
