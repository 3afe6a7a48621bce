"""People's pictures: reading them, and finding the strokes that are digits."""

import os
import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from support import UserError, is_out_of_memory

SIDE = 400  # pixels; larger pictures are made smaller

# ------------------------------------------------------------------ any format, the right way up


def paths(name):
    """The pictures in a folder, sorted; [name] of what is none, or has none."""
    endings = {ending for ending, kind in Image.registered_extensions().items()
               if kind in Image.OPEN}
    try:
        files = os.listdir(name)
    except OSError:  # no folder
        files = []
    return sorted(os.path.join(name, file) for file in files
                  if os.path.splitext(file)[1].lower() in endings) or [name]


def read(picture, mode="L"):
    """A PIL image of `mode`, "L" or "RGB", at most SIDE wide and high, of a path or a PIL image.

    Transparent pictures are laid on white if they are dark, else on black. Raises UserError.
    """
    try:
        if isinstance(picture, Image.Image):
            return prepared(picture, mode)
        if isinstance(picture, str) and os.path.isdir(picture):  # `paths` found none
            os.listdir(picture)  # perhaps for want of permission
            raise UserError("no pictures that Pillow reads in this folder")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures; too large ones are refused
            with Image.open(picture) as image:
                image.draft(mode, (SIDE, SIDE))  # a JPEG is decoded at a half, a quarter, ...
                return prepared(image, mode)
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise UserError("not a picture that Pillow reads") from None
    except Exception as error:  # Pillow raises nearly anything on damaged files
        if is_out_of_memory(error):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"cannot be read: {reason}") from None


def prepared(image, mode):
    """The right way up, not too large, 8 bits a colour, on a ground."""
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # 16 bits and more: from black to the brightest there is
        pixels = np.nan_to_num(np.asarray(image, np.float32), posinf=0).clip(0)
        image = Image.fromarray(np.uint8(255 * pixels / max(pixels.max(), 1e-9)))
    image = image.convert("RGBA" if image.has_transparency_data else mode)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return on_ground(image).convert(mode)


def on_ground(image):
    """Lay an image with transparent parts onto white, if it is dark, else onto black."""
    if image.mode != "RGBA":
        return image
    grey, alpha = np.asarray(image.convert("LA"), np.float32).transpose(2, 0, 1)
    bright = (grey * alpha).sum() > 127 * alpha.sum()
    ground = Image.new("RGBA", image.size, "black" if bright else "white")
    return Image.alpha_composite(ground, image)


def tensor(image):
    """Float in [0, 1], [H, W] of a grey PIL image, [3, H, W] of a colour one."""
    array = torch.from_numpy(np.array(image)).float() / 255
    return array if image.mode == "L" else array.permute(2, 0, 1)


# ------------------------------------------------------------------ ink


def ink(picture):
    """What share of a bright ground's light strokes take away, or what they add to a dark ground.

    picture: float [H, W] in [0, 1], and so is what is returned.
    """
    window = max(picture.shape) // 3 | 1  # wider than a stroke
    light = (picture + 0.05).log()  # so that half the light is as far everywhere
    if outer(light).mean() < (light.min() + light.max()) / 2:
        strokes = picture - opened(picture, window)
    else:
        ground = -opened(-picture, window)  # without strokes, but with its shadows
        strokes = (ground - picture) / ground.clamp(min=0.05)
    return without_lines(strokes - strokes.median())  # most is ground, with its noise


def without_lines(strokes):
    """Strokes [H, W] without thin lines that go from one side of the picture to the other."""
    near = max(strokes.shape) // 100 * 2 + 1  # they may be a little slanted
    across = widened(strokes, near, 1).quantile(0.05, dim=1, keepdim=True)
    down = widened(strokes, 1, near).quantile(0.05, dim=0, keepdim=True)
    across = across - opened(across, 2 * near + 1, 1)  # a bar of the digit's is wider
    down = down - opened(down, 1, 2 * near + 1)
    return (strokes - torch.maximum(across, down)).clamp(min=0)


def opened(picture, height, width=None):
    """[H, W] without what is bright and narrower than a window: a morphological opening."""
    return widened(-widened(-picture, height, width), height, width)


def outer(picture):
    """The pixels of [H, W] that are near a side, where the ground is: a tenth of the shorter."""
    width = max(1, min(picture.shape) // 10)
    near = torch.ones_like(picture, dtype=torch.bool)
    near[width:-width, width:-width] = False
    return picture[near]


def edge(picture):
    """The pixels along the four sides of [..., H, W]: [..., 2 H + 2 W]."""
    return torch.cat([picture[..., 0, :], picture[..., -1, :], picture[..., 0], picture[..., -1]],
                     dim=-1)


def widened(picture, height, width=None):
    """The largest value in a window about each pixel, of odd height and width: float [H, W]."""
    width = width or height
    columns = F.max_pool2d(picture[None], (height, 1), 1, (height // 2, 0))
    return F.max_pool2d(columns, (1, width), 1, (0, width // 2))[0]


# ------------------------------------------------------------------ digits


class Part(NamedTuple):
    """Strokes that hang together: their pixels, bool [H, W], and the box about them."""

    mask: torch.Tensor
    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def of(cls, mask):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        return cls(mask, rows[0].item(), rows[-1].item() + 1,
                   columns[0].item(), columns[-1].item() + 1)

    @property
    def height(self):
        return self.bottom - self.top

    def overlaps(self, other):
        """Whether they share more than half the columns of the narrower one."""
        shared = min(self.right, other.right) - max(self.left, other.left)
        return 2 * shared > min(self.right - self.left, other.right - other.left)

    def frames(self, other):
        return (self.top < other.top and self.bottom > other.bottom and self.left < other.left
                and self.right > other.right and other.height > 0.25 * self.height)


def digits(strokes):
    """The digits in the ink [H, W] of a picture, one row of them, from left to right: Parts."""
    found = []
    for part in sorted(parts(strokes), key=lambda part: part.left):
        if found and part.overlaps(found[-1]):  # one above the other: of one digit
            part = Part.of(part.mask | found.pop().mask)
        found.append(part)
    tallest = max(part.height for part in found)
    return [part for part in found if part.height > 0.4 * tallest]


def parts(strokes):
    """The Parts that may be of digits: not specks, nor frames, nor what comes from outside."""
    level = otsu(strokes)
    numbered = connected(strokes > 0.5 * level)
    numbers, areas = numbered[strokes > level].unique(return_counts=True)
    inside = ~torch.isin(numbers, edge(numbered))
    if inside.any() and areas[inside].max() > 0.05 * areas.max():
        numbers, areas = numbers[inside], areas[inside]
    found = [Part.of(numbered == number) for number in numbers[areas > 0.05 * areas.max()]]
    return [part for part in found if not any(part.frames(other) for other in found)]


def otsu(values):
    """The threshold that parts values in [0, 1] best in two (Otsu 1979)."""
    share = torch.histc(values, 256, 0, 1) / values.numel()
    levels = torch.arange(1, 257) / 256
    below, mean = share.cumsum(0), (share * levels).cumsum(0)
    between = (mean[-1] * below - mean) ** 2 / (below * (1 - below)).clamp(min=1e-9)
    return levels[between.argmax()]


def connected(mask):
    """Number the connected parts of a bool mask [H, W]: int64 [H, W], 0 where it is False.

    Each pixel begins with a number of its own. Pixels that touch take the smaller one, until
    nothing changes.
    """
    count = mask.numel()
    own = F.pad(torch.arange(1, count + 1).view(mask.shape) * mask, [1] * 4)  # a rim for `roll`
    shifted = [own.roll(step, (0, 1)) for step in ((0, 1), (1, 0), (1, 1), (1, -1))]
    pairs = torch.cat([torch.stack([own, neighbour]).flatten(1) for neighbour in shifted], 1)
    one, other = pairs[:, (pairs > 0).all(0)]
    number = torch.arange(count + 1)
    while (number[one] != number[other]).any():
        lower = torch.minimum(number[one], number[other])
        for pixels in (one, other):
            number.scatter_reduce_(0, number[pixels], lower, "amin")
        number = number[number]
    return number[own[1:-1, 1:-1]]


def with_a_thick_pen(strokes):
    """Strokes as wide as MNIST's, for a thin pen's would vanish: [H, W] about 100 high or wide."""
    strokes = resized(strokes, 100)
    strokes = strokes / strokes.max()
    mask = F.pad(strokes, [1] * 4) > 0.3
    outline = mask & (widened((~mask).float(), 3) > 0)
    width = 2 * mask.sum() / outline.sum()  # of a stroke: area over half the outline
    thicker = max(0, round((12 - width.item()) / 2))
    return widened(F.pad(strokes, [thicker] * 4), 2 * thicker + 1)


def resized(image, side):
    """An image [H, W], its longer side `side` pixels."""
    size = [max(1, round(side / max(image.shape) * length)) for length in image.shape]
    return F.interpolate(image[None, None], size, mode="bilinear", antialias=True)[0, 0]
