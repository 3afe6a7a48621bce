"""MNIST, Fashion-MNIST and CIFAR10 in memory: what a sample is, preprocessing, augmentation.

    from dataset import load_cifar10, imshow
    trainset, testset = load_cifar10()
    image, label = trainset[0]              # float32 [3, 32, 32] in [0, 1], int
    images, labels = trainset[[0, 1, 2]]    # float32 [3, 3, 32, 32], int64 [3]: a batch at once
    imshow(image)

What is done to images, and when:

    preprocess   once, to all of them, as they are loaded: Grayscale and Resize
    transform    whenever a sample is asked for, as in torchvision
    augment      to the training images of each mini-batch, drawn anew (train.fit)
    prepare      to whatever the network is given, last (train.fit)

To fetch and check all three datasets (290 MB on disk, nothing is fetched twice):

    $ python dataset.py
    MNIST          ok   60000 train + 10000 test images of 1x28x28   from data/MNIST/raw
    Fashion-MNIST  ok   60000 train + 10000 test images of 1x28x28   from data/FashionMNIST/raw
    CIFAR10        ok   50000 train + 10000 test images of 3x32x32   from data/CIFAR10
"""

import operator

# before torch: support/__init__.py says why
from support import command_line, sources

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

# ------------------------------------------------------------------ a dataset


class ImageDataset(Dataset):
    """A split of a dataset, in memory: uint8 images [N, C, H, W] and int64 labels [N].

    dataset[i]      an image, float32 [C, H, W] in [0, 1], and its label, an int
    dataset[batch]  images [B, C, H, W] and labels [B], in one indexing operation; batch is a
                    list, array or tensor of indices, a slice, or a mask of N bools
    classes         their names
    source          where the files lie
    split           "train", "test" or "validation"
    transform       None, or a function that is applied to each image
    """

    def __init__(self, images, labels, classes, source="", split="train", transform=None):
        self.images, self.labels = images, labels
        self.classes, self.source, self.split = list(classes), source, split
        self.transform = transform
        self._targets = None

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"<{self.split} set of {len(self)} images of {shape}, from {self.source}>"

    def __getitem__(self, index):
        if isinstance(index, slice) or np.ndim(index) > 0:
            return self.batch(index)
        index = operator.index(index)
        image = self.images[index].float().div_(255)
        if self.transform is not None:
            image = self.transform(image)
        return image, self.labels[index].item()

    def batch(self, index):
        # numpy makes positions from 0 of a list, a slice, a mask, negative numbers, or raises
        if isinstance(index, torch.Tensor):
            index = index.cpu()
        if not isinstance(index, slice):
            index = np.asarray(index, dtype=None if len(index) else int)
        index = torch.from_numpy(np.arange(len(self))[index])
        index = index.to(self.images.device, non_blocking=True)
        images = self.images.index_select(0, index).float().div_(255)
        if self.transform is not None and len(images):
            images = torch.stack([self.transform(image) for image in images])
        return images, self.labels.index_select(0, index)

    def to(self, device):
        """The same split on `device`; where it is there, with the same tensors."""
        return self.with_data(self.images.to(device), self.labels.to(device))

    def subset(self, indices):
        """These images only; a slice shares their memory, a tensor of indices copies them."""
        return self.with_data(self.images[indices], self.labels[indices])

    def with_data(self, images, labels):
        return ImageDataset(images, labels, self.classes, self.source, self.split, self.transform)

    # as torchvision has them; writing into data changes the images

    @property
    def data(self):
        """Grey: uint8 tensor [N, H, W]; colour: numpy uint8 [N, H, W, 3]."""
        if self.images.shape[1] == 1:
            return self.images[:, 0]
        return self.images.permute(0, 2, 3, 1).cpu().numpy()

    @property
    def targets(self):
        """Grey: the labels, a tensor; colour: a tuple of ints, which cannot be written to."""
        if self.images.shape[1] == 1:
            return self.labels
        if self._targets is None:  # once, for a loop asks for targets[i]
            self._targets = tuple(self.labels.tolist())
        return self._targets

    @property
    def class_to_idx(self):
        return {name: i for i, name in enumerate(self.classes)}


def load_mnist(root="data", preprocess=None, transform=None):
    """MNIST as (trainset, testset): 60,000 and 10,000 grey images of 28x28.

    root: the folder that holds the files or gets them. preprocess: a function of uint8
    [B, C, H, W], applied once, to all images; `preprocess_for` makes one. transform: applied to
    each image whenever it is asked for, as in torchvision, but to a float tensor [C, H, W].
    Raises support.DataError.
    """
    return load(sources.MNIST, root, preprocess, transform)


def load_fashion_mnist(root="data", preprocess=None, transform=None):
    """Fashion-MNIST as (trainset, testset), as `load_mnist`."""
    return load(sources.FASHION, root, preprocess, transform)


def load_cifar10(root="data", preprocess=None, transform=None):
    """CIFAR10 as (trainset, testset): 50,000 and 10,000 colour images, as `load_mnist`."""
    return load(sources.CIFAR10, root, preprocess, transform)


def load(source, root, preprocess=None, transform=None):
    (images, labels, test_images, test_labels), where = sources.load(source, root)
    splits = []
    for split, images, labels in (("train", images, labels), ("test", test_images, test_labels)):
        images, labels = torch.from_numpy(images), torch.from_numpy(labels).long()
        if preprocess is not None:  # in chunks, for transforms need many times their memory
            images = torch.cat([preprocess(chunk) for chunk in images.split(10_000)])
        if images.dtype != torch.uint8 or images.dim() != 4 or len(images) != len(labels):
            raise ValueError("preprocess must return uint8 [B, C, H, W], not "
                             f"{images.dtype} {list(images.shape)}")
        splits.append(ImageDataset(images, labels, source.classes, where, split, transform))
    return tuple(splits)


# ------------------------------------------------------------------ preprocessing, augmentation


def preprocess_for(channels, size):
    """Grayscale and Resize, for a network that takes `channels` (1 or 3) x `size` x `size`.

    What fits already stays as it is. Grey images for three channels are repeated.
    """
    if channels not in (1, 3) or size < 1:
        raise ValueError(f"images have 1 or 3 channels and a size from 1, not {channels}, {size}")

    def preprocess(images):
        if images.shape[-3:] == (channels, size, size):
            return images
        from torchvision import transforms  # here, for it takes seconds to import
        if channels == 1:
            images = transforms.Grayscale()(images)
        images = transforms.Resize((size, size))(images)
        if images.shape[-3] < channels:  # grey images for three channels
            images = images.repeat_interleave(3, dim=-3)
        return images
    return preprocess


class Augment:
    """Random flips, rotations and shifts, drawn anew for EVERY image of a batch.

    augment(images, generator=None): float [B, C, H, W] in and out, on any device; the generator is
    the CPU's.
    flip: probability of a horizontal flip; rotation: largest angle in degrees, either way;
    shift: most pixels, either way, in x and in y. What comes in from outside is black.
    Raises ValueError.

    torchvision's RandomHorizontalFlip and RandomRotation draw once a call: a whole batch would be
    turned alike (pytorch/vision issues 2929 and 8484).
    """

    def __init__(self, flip=0.0, rotation=0.0, shift=0):
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is a probability from 0 to 1, not {flip}")
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation is an angle from 0 to 180 degrees, not {rotation}")
        if shift < 0 or shift % 1:
            raise ValueError(f"shift is a whole number of pixels from 0, not {shift}")
        self.flip, self.rotation, self.shift = flip, rotation, int(shift)

    def __repr__(self):
        return f"Augment(flip={self.flip}, rotation={self.rotation}, shift={self.shift})"

    def draw(self, count, generator=None):
        """For each of `count` images: whether to flip it, bool [count]; by how many degrees to
        turn it counter-clockwise [count]; by how many pixels to move it right and down [count, 2].
        """
        flips = torch.rand(count, generator=generator) < self.flip
        angles = (torch.rand(count, generator=generator) * 2 - 1) * self.rotation
        shifts = torch.randint(-self.shift, self.shift + 1, (count, 2), generator=generator)
        return flips, angles, shifts

    def __call__(self, images, generator=None):
        if images.dim() != 4 or not images.is_floating_point():
            raise ValueError("images are float [B, C, H, W], not "
                             f"{images.dtype} {list(images.shape)}")
        flips, angles, shifts = self.draw(len(images), generator)
        if self.flip:
            flips = flips.to(images.device, non_blocking=True)
            images = torch.where(flips[:, None, None, None], images.flip(-1), images)
        if self.rotation or self.shift:
            images = turn_and_move(images, angles, shifts)
        return images


def turn_and_move(images, angles, shifts):
    """Turn each image about its centre by its angle, then move it by its shift."""
    # grid_sample asks where an output pixel (x, y) comes from: undo the shift, then the rotation,
    #     from x = cos (x - right) - sin (y - down)
    #     from y = sin (x - right) + cos (y - down)
    # in pixels from the centre; it wants both from -1 to 1, across the width and the height
    height, width = images.shape[-2:]
    radians = angles.deg2rad()[:, None]
    drawn = torch.cat([radians.cos(), radians.sin(), shifts], dim=1)
    cos, sin, right, down = drawn.to(images, non_blocking=True)[..., None].unbind(1)  # [B, 1]
    x = torch.arange(width).to(images) - (width - 1) / 2 - right    # [B, W]
    y = torch.arange(height).to(images) - (height - 1) / 2 - down   # [B, H]
    from_x = (cos * x)[:, None, :] - (sin * y)[:, :, None]          # [B, H, W]
    from_y = (sin * x)[:, None, :] + (cos * y)[:, :, None]
    grid = torch.stack([from_x * (2 / width), from_y * (2 / height)], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


# ------------------------------------------------------------------ display


def imshow(image, title=None, path=None):
    """Show an image, or a batch of them as a grid.

    image: a tensor, array or PIL image, [H, W], [C, H, W], [H, W, C] or a batch [B, ...] of the
    last two; C is 1 or 3; uint8, or float in [0, 1]. Other values, of a normalised image, are
    scaled to their own range.
    It is saved to `path`, if given, or to imshow.png where there is no display; a line says so.
    Raises ValueError.
    """
    from support import display  # here, for matplotlib takes longer to import than MNIST to load
    image = display.as_float(image)
    figure, axes = display.new()
    axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)  # channels go last
    axes.set_axis_off()
    axes.set_title(title or "")
    display.show(figure, path)


def main():
    parser = command_line.Parser(prog="dataset.py", description="Fetch and check the datasets.")
    parser.add_argument("--data", default="data", metavar="FOLDER",
                        help="the folder that holds the data or gets them (default: %(default)s)")
    root = parser.parse_args().data
    for source in (sources.MNIST, sources.FASHION, sources.CIFAR10):
        trainset, testset = load(source, root)
        shape = "x".join(map(str, trainset.images.shape[1:]))
        print(f"{source.name:13}  ok   {len(trainset)} train + {len(testset)} test images of "
              f"{shape}   from {trainset.source}")


if __name__ == "__main__":
    command_line.script(main)
