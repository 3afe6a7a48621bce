"""dataset.py: samples, preprocessing, augmentation, imshow, the command line."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.transforms import functional as TF

import dataset
from dataset import Augment, ImageDataset, imshow, load_mnist, preprocess_for
from support import DataError, downloads

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def small():
    """Ten colour images of 4x5, no two alike."""
    images = torch.arange(10 * 3 * 4 * 5).remainder(251).to(torch.uint8).view(10, 3, 4, 5)
    return ImageDataset(images, torch.arange(10) % 3, ["a", "b", "c"], "here", "validation")


def test_samples_and_batches_however_they_are_asked_for(small):
    mask, before = [i in (1, 3, 8) for i in range(10)], small.images.clone()
    ways = [(7, [7, -3, np.uint8(7), torch.tensor(7), np.array(7)]),
            ([3, 1, 8], [[3, 1, 8], (3, 1, 8), np.array([3, 1, 8], np.uint8), [3, 1, -2],
                         torch.tensor([3, -9, 8]), np.array([8, 1, 3])[::-1],
                         [torch.tensor(3), 1, 8]]),
            ([1, 3, 8], [mask, np.array(mask), torch.tensor(mask)]),
            ([2, 5, 8], [slice(2, 9, 3), range(2, 9, 3)]),
            ([], [[], (), slice(0, 0), torch.zeros(10, dtype=torch.bool), np.array([])])]
    for expected, same in ways:
        for way in same:
            images, labels = small[way]
            assert images.dtype == torch.float32
            assert torch.equal(images, before[expected] / 255), way
            if expected == 7:
                assert type(labels) is int and labels == 1
            else:
                assert labels.dtype == torch.int64 and labels.tolist() == [i % 3 for i in expected]
            images.zero_()  # shares no memory
    assert torch.equal(small.images, before)
    for index in (10, -11, [0, 10], [-11], torch.tensor([10]), [True] * 9, np.zeros((2, 2), int),
                  1.0, "1", None, [0.5]):
        with pytest.raises((IndexError, TypeError)):
            small[index]
    assert len(list(small)) == 10  # an IndexError ends an iteration


def test_data_and_targets_are_torchvisions_and_what_is_written_has_effect(small):
    grey = small.with_data(small.images[:, :1].clone(), small.labels)
    assert small.data.dtype == np.uint8 and small.data.shape == (10, 4, 5, 3)
    assert np.array_equal(small.data[5].transpose(2, 0, 1), small.images[5])
    assert grey.data.dtype == torch.uint8 and torch.equal(grey.data, grey.images[:, 0])
    assert torch.equal(grey.targets, small.labels)
    assert list(small.targets) == small.labels.tolist() and type(small.targets[0]) is int
    for each in (small, grey):
        each.data[2] = 255
        assert each[2][0].min() == 1 and each[[2]][0].min() == 1
        for name in ("data", "targets"):
            with pytest.raises(AttributeError):
                setattr(each, name, None)
    grey.targets[2] = 9
    assert grey[2][1] == 9
    with pytest.raises(TypeError):
        small.targets[2] = 9


def test_transform_is_applied_to_each_image(small, mnist):
    small.transform = lambda image: image - image.mean()  # of a batch it would be another
    expected = torch.stack([image - image.mean() for image in small.images / 255])
    assert torch.allclose(small[3][0], expected[3]) and torch.allclose(small[:][0], expected)
    for theirs, ours in zip(load_mnist(transform=lambda image: 1 - image), mnist):
        assert torch.equal(theirs[5][0], 1 - ours[5][0])


def test_parts_keep_what_is_known_of_the_dataset(small):
    small.transform = transforms.Resize(2)
    assert small.to("cpu").images is small.images
    assert small.to("meta").images.is_meta and small.to("meta").labels.is_meta  # as any device
    for indices, way in (([7, 2], [7, 2]), ([7, 2], torch.tensor([7, 2])), ([0, 1], slice(2))):
        part = small.subset(way)
        assert torch.equal(part.images, small.images[indices])
        assert part.labels.tolist() == [i % 3 for i in indices]
        for name in ("classes", "split", "source", "transform"):
            assert getattr(part, name) == getattr(small.to("meta"), name) == getattr(small, name)


def test_data_loaders(mnist, cifar10):
    images, labels = next(iter(DataLoader(cifar10[0], batch_size=4, shuffle=True, num_workers=1)))
    assert images.shape == (4, 3, 32, 32) and labels.dtype == torch.int64
    assert transforms.Grayscale()(images).shape == (4, 1, 32, 32)
    batches = DataLoader(mnist[1], sampler=torch.arange(10_000).split(4000), batch_size=None)
    assert torch.equal(torch.cat([labels for _, labels in batches]), mnist[1].labels)


def test_preprocessing_is_torchvisions_grayscale_and_resize(mnist, cifar10):
    digits = load_mnist(preprocess=preprocess_for(3, 32))[0]
    assert torch.equal(digits.labels, mnist[0].labels) and len(digits.images) == 60_000
    for i in (0, 9_999, 10_000, 59_999):  # both sides of a chunk's edge
        resized = transforms.Resize((32, 32))(mnist[0].images[i])
        assert torch.equal(digits.images[i], resized.expand(3, -1, -1))
    colour, grey = cifar10[0].images[:9], mnist[0].images[:9]
    theirs = transforms.Compose([transforms.Grayscale(), transforms.Resize((28, 28))])
    assert torch.equal(preprocess_for(1, 28)(colour), theirs(colour))
    assert torch.equal(preprocess_for(3, 40)(colour), transforms.Resize((40, 40))(colour))
    assert torch.equal(preprocess_for(1, 28)(grey), grey)  # what fits stays
    assert torch.equal(preprocess_for(3, 32)(colour), colour)
    for wrong in (lambda x: x.float(), lambda x: x[:2], lambda x: x[:, 0]):
        with pytest.raises(ValueError, match="preprocess must return"):
            load_mnist(preprocess=wrong)
    for channels, size in ((2, 28), (1, 0)):
        with pytest.raises(ValueError, match=f"not {channels}, {size}"):
            preprocess_for(channels, size)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


BATCH = torch.rand(32, 3, 28, 20, generator=seeded(0))  # not square


@pytest.mark.parametrize("arguments", [(0.5, 0, 0), (0, 30, 0), (0, 0, 3), (0.5, 180, 4)])
def test_augment_is_torchvisions_image_by_image(arguments):
    augment, before = Augment(*arguments), BATCH.clone()
    drawn = augment.draw(len(BATCH), seeded(1))
    rows = zip(BATCH, augment(BATCH, seeded(1)), *drawn, strict=True)
    for image, ours, flip, angle, shift in rows:
        theirs = TF.affine(TF.hflip(image) if flip else image, -angle.item(), shift.tolist(), 1,
                           [0, 0], interpolation=transforms.InterpolationMode.BILINEAR)
        assert torch.allclose(ours, theirs, atol=1e-3)
    assert [part.any().item() for part in drawn] == [bool(value) for value in arguments]
    assert torch.equal(BATCH, before)


def test_every_image_is_drawn_anew():
    copies = BATCH[:1].expand(64, -1, -1, -1)
    ours = Augment(rotation=20, shift=2)(copies, seeded(5))
    assert len(torch.unique(ours.flatten(1), dim=0)) == 64
    for theirs in (transforms.RandomRotation(20), transforms.RandomHorizontalFlip(),
                   transforms.RandomAffine(0, translate=(0.1, 0.1))):  # why they are not used
        assert len(torch.unique(theirs(copies).flatten(1), dim=0)) == 1


def test_the_generator_decides():
    augment, state = Augment(flip=0.3, rotation=10, shift=2), torch.get_rng_state()
    first = augment(BATCH, seeded(7))
    assert torch.equal(torch.get_rng_state(), state)  # PyTorch's own numbers are not touched
    assert torch.equal(first, augment(BATCH, seeded(7)))
    assert not torch.equal(first, augment(BATCH, seeded(8)))
    flips, angles, shifts = augment.draw(100_000, seeded(6))
    assert abs(flips.float().mean() - 0.3) < 0.01 and abs(angles.mean()) < 0.1
    assert 9.9 < angles.abs().max() <= 10 and abs(angles.std() - 20 / 12 ** 0.5) < 0.05
    for axis in shifts.unbind(1):
        assert ((axis + 2).bincount() - 20_000).abs().max() < 1000
    assert Augment()(BATCH) is BATCH  # nothing to do


def test_bad_augmentation_raises():
    wrong = {"flip": (-0.1, 1.1, NAN), "rotation": (-1, 181, NAN), "shift": (-1, 1.5, NAN, INF)}
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=f"{name} is .* not {value}"):
                Augment(**{name: value})


@pytest.fixture
def plt(monkeypatch, tmp_path):
    import matplotlib.pyplot as plt
    monkeypatch.chdir(tmp_path)
    yield plt
    assert plt.get_fignums() == []


def test_imshow_without_a_display_saves(plt, capsys):
    imshow(BATCH[0])
    assert capsys.readouterr().out == "image saved as imshow.png\n"
    red = torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 8, 8)
    dark = torch.full((1, 8, 8), 51, dtype=torch.uint8)
    for image, colour in ((red, [255, 0, 0]), (red.numpy(), [255, 0, 0]), (dark / 255, 51),
                          (red.repeat(6, 1, 1, 1), [255, 0, 0]), (dark, 51)):
        imshow(image, title="a title", path="x.png")
        assert capsys.readouterr().out == "image saved as x.png\n"
        assert (np.asarray(Image.open("x.png").convert("RGB")) == colour).all(2).mean() > 0.1
    assert sorted(os.listdir()) == ["imshow.png", "x.png"]
    for shape in ((8,), (2, 8, 8), (8, 8, 4), (1, 1, 1, 8, 8), (0, 3, 8, 8)):
        with pytest.raises(ValueError, match="an image is"):
            imshow(torch.zeros(shape))
    with pytest.raises(ValueError, match="int64"):
        imshow(torch.zeros(1, 8, 8, dtype=torch.int64))


@pytest.mark.filterwarnings("once::UserWarning")
def test_imshow_takes_what_people_have(plt, monkeypatch, recwarn):
    def drawn(image):
        shown.clear()
        imshow(image, path="x.png")
        return shown[0]

    shown, draw = [], plt.Axes.imshow
    monkeypatch.setattr(plt.Axes, "imshow", lambda axes, image, **options: (
        shown.append(image), draw(axes, image, **options))[1])
    pixels = (BATCH[0] * 255).byte().permute(1, 2, 0).numpy()  # [28, 20, 3]
    for image in (pixels, Image.fromarray(pixels), pixels[::-1][::-1], BATCH[0].permute(1, 2, 0)):
        assert np.allclose(drawn(image), BATCH[0].permute(1, 2, 0), atol=1 / 255)
    grey = pixels[:, :, 0]
    for image in (grey, Image.fromarray(grey), torch.from_numpy(grey)):
        assert np.array_equal(drawn(image)[..., 0], grey / np.float32(255))
    assert drawn(np.stack([pixels] * 3)).shape == (32, 68, 3)  # a grid of three
    assert not recwarn
    normalised = (BATCH[0] - 0.5) / 0.1
    for _ in range(2):
        image = drawn(normalised).transpose(2, 0, 1)
        assert image.min() == 0 and image.max() == 1  # not clipped: as far apart as they were
        assert np.corrcoef(image.ravel(), BATCH[0].ravel())[0, 1] == pytest.approx(1)
    warning, = recwarn
    assert "scales them to their own range" in str(warning.message)
    assert warning.filename == __file__


def test_imshow_saves_in_the_format_of_the_name_or_says_why_not(plt, capsys):
    for name, kind in (("x.png", "PNG"), ("x.jpg", "JPEG"), ("x.JPEG", "JPEG"), ("x", "PNG")):
        imshow(BATCH[0], path=name)
        with Image.open(name) as image:
            assert image.format == kind
    capsys.readouterr()
    imshow(BATCH[0], path="no/x.png")
    assert capsys.readouterr() == ("", "imshow cannot save no/x.png: No such file or directory\n")


def test_imshow_with_a_display_shows(plt, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(plt, "get_backend", lambda: "QtAgg")
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gca().images[0].get_array().shape))
    imshow(BATCH[0])
    assert shown == [(28, 20, 3)] and os.listdir() == [] and capsys.readouterr().out == ""
    imshow(BATCH[0], path="x.png")
    assert len(shown) == 2 and os.listdir() == ["x.png"]


def test_command_line(call, mnist, fashion, cifar10, tmp_path, monkeypatch):
    status, out, err = call(dataset)
    assert (status, err) == (0, "")
    for line, name, (train, test) in zip(out.splitlines(), ("MNIST", "Fashion-MNIST", "CIFAR10"),
                                         (mnist, fashion, cifar10), strict=True):
        assert line.split()[:4] == [name, "ok", str(len(train)), "train"]
        assert line.endswith(f"   from {train.source}") and f"{len(test)} test images" in line

    def run(command, folder):
        raise DataError("no network")

    monkeypatch.setattr(downloads, "run", run)
    status, out, err = call(dataset, "--data", tmp_path)
    *progress, last = err.splitlines()
    assert (status, out) == (2, "") and len(progress) == 2
    assert all("fetching from" in line for line in progress)
    assert last.startswith("dataset.py: error: MNIST cannot be had") and "no network" in last


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda(small):
    moved, index = small.to("cuda"), torch.tensor([3, 1, 8])
    for way in ([3, 1, -2], index, index.cuda(), index.numpy()):
        images, labels = moved[way]
        assert images.is_cuda and labels.is_cuda and labels.tolist() == [0, 1, 2]
        assert torch.allclose(images.cpu(), small[index][0], rtol=1e-6)
    assert moved[3][0].is_cuda and moved[3][1] == 0 and np.array_equal(moved.data, small.data)
    with pytest.raises(IndexError):
        moved[[0, 10]]
    ours = Augment(0.5, 20, 2)(BATCH.cuda(), seeded(1)).cpu()
    assert torch.allclose(ours, Augment(0.5, 20, 2)(BATCH, seeded(1)), atol=1e-4)
