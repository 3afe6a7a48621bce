"""predict.py: pictures that people may have, made from MNIST's and Fashion-MNIST's test sets."""

import os
from functools import partial

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backend_bases import KeyEvent, MouseEvent
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

import fashion_mnist
import photos
import predict as script
import train
from model import cnn, lenet5
from support import UserError, drawing, files, pictures


MODEL, GARMENTS = os.path.abspath("model.pth"), os.path.abspath("fashion_mnist.pth")


@pytest.fixture(scope="module")
def network():
    return script.Network(MODEL)


def read(network, picture):
    """The digits that are read, as text."""
    return "".join(map(str, network.classify(picture).argmax(1).tolist()))


def image_of(dataset, index):
    return Image.fromarray(dataset.images[index, 0].numpy())


# ------------------------------------------------------------------ digits


def test_mnists_own_images_stay_as_they_are_to_the_pixel(mnist):
    """So the accuracy on the whole test set as PNG files is that of --evaluate."""
    testset = mnist[1]
    for start in range(0, len(testset), 1000):
        images, _ = testset[start:start + 1000]
        made = [script.to_mnist(image_of(testset, start + i)) for i in range(len(images))]
        assert torch.equal(torch.cat(made), images)


def test_mnists_images_from_files_get_the_answers_of_evaluate(mnist, network, tmp_path):
    images = mnist[1].subset(slice(200))
    for i in range(200):
        image_of(images, i).save(tmp_path / f"{i:03}.png")
    answers = [network.classify(path) for path in pictures.paths(tmp_path)]
    logits = train.predict(network.model, images)
    assert torch.allclose(torch.cat(answers), logits.softmax(1), atol=1e-5)


def test_fashion_mnists_images_get_the_answers_of_evaluate(fashion):
    network, images = script.Network(GARMENTS), fashion[1].subset(slice(8))
    size = files.note_in(files.read_weights(GARMENTS), "image_size", 0)
    prepare = partial(fashion_mnist.prepare, size=size)
    answers = [network.classify(image_of(images, i)) for i in range(8)]
    logits = train.predict(network.model, images, prepare)
    assert torch.allclose(torch.cat(answers), logits.softmax(1), atol=1e-4)
    assert network.classes[answers[0].argmax()] == "Ankle boot"


@pytest.mark.parametrize("kind", photos.KINDS)
def test_photos_of_each_kind_are_read(network, kind):
    """Of 77 of each kind 97 to 100 % are (results/photos.json)."""
    read_right = [read(network, photo) == str(label) for photo, label in photos.of_kind(kind, 25)]
    assert len(read_right) == 25 and sum(read_right) >= 23


def test_the_form_is_mnists(mnist):
    """The box is 20x20, the centre of mass the middle; made twice, it stays as it is."""
    chance = np.random.default_rng(0)
    for kind in ("size", "thin", "corner", "shadow"):
        made = script.to_mnist(photos.photo(mnist[1].images[7, 0].numpy(), kind, chance))
        assert made.shape == (1, 1, 28, 28) and made.min() == 0 and made.max() == 1
        picture = Image.fromarray(np.uint8(255 * made[0, 0].numpy()))
        assert script.is_mnists(pictures.tensor(picture))
        assert torch.allclose(script.to_mnist(picture), made, atol=1 / 255)


def test_several_digits_are_read_from_left_to_right(mnist, network):
    row = np.hstack([np.pad(mnist[1].images[i, 0].numpy(), 6) for i in range(5)])
    picture = Image.fromarray(255 - row).resize((5 * 120, 120))
    assert read(network, picture) == "72104"


def test_formats_modes_and_orientations_are_one(mnist, network, tmp_path):
    grey = Image.fromarray(255 - np.kron(mnist[1].images[0, 0].numpy(), np.ones((5, 5), np.uint8)))
    expected = script.to_mnist(grey)
    for mode, name in (("RGB", "a.png"), ("P", "b.gif"), ("RGBA", "c.webp"), ("1", "d.bmp"),
                       ("CMYK", "e.tif"), ("LA", "f.png"), ("I;16", "g.png"), ("F", "h.tiff")):
        picture = grey
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256)
        elif mode == "LA":
            picture = Image.merge("LA", (Image.new("L", grey.size), grey.point(lambda v: 255 - v)))
        else:
            picture = grey.convert(mode)
        picture.save(tmp_path / name, **({"lossless": True} if name == "c.webp" else {}))
        made = script.to_mnist(str(tmp_path / name))
        assert (made - expected).abs().max() < (0.7 if mode == "1" else 0.05), mode
        assert read(network, tmp_path / name) == "7"


def test_a_thin_pen_and_a_tight_crop(network):
    for size in (60, 400, 1000):
        picture = Image.new("L", (size, size), 255)
        ImageDraw.Draw(picture).line((size * 0.2, size * 0.2, size * 0.8, size * 0.2, size * 0.4,
                                      size * 0.9), 0, 1)
        assert read(network, picture) == "7"
    one = Image.new("L", (60, 200), 255)
    ImageDraw.Draw(one).rectangle((15, 0, 40, 199), 0)  # from edge to edge
    assert read(network, one) == "1"


def test_a_picture_that_is_open_stays_as_it_was(tmp_path):
    photos.photo(np.eye(28, dtype=np.uint8) * 255, "noise", np.random.default_rng(0)).resize(
        (2000, 2000)).convert("RGB").save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as picture:
        assert script.to_mnist(picture).shape == (1, 1, 28, 28)
        assert (picture.size, picture.mode) == ((2000, 2000), "RGB")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:9000])
    with Image.open(tmp_path / "cut.jpg") as picture, pytest.raises(UserError, match="truncated"):
        script.to_mnist(picture)


def test_no_digit_raises():
    for picture in (Image.new("L", (300, 200), 240), Image.new("RGB", (1, 1)),
                    Image.new("RGBA", (50, 50)), Image.new("L", (28, 28))):
        with pytest.raises(UserError, match="nothing is drawn in it"):
            script.to_mnist(picture)


# ------------------------------------------------------------------ garments, CIFAR10


def test_garments_are_trimmed_and_turned_to_bright_on_black(fashion):
    """What a garment's picture was before Fashion-MNIST's makers made it 28x28, as far as that
    can be undone: larger, off centre, on a bright or a dark ground."""
    garment = fashion[1].images[0, 0]
    inside = garment[(garment > 0).any(1)][:, (garment > 0).any(0)]
    made = np.kron(inside.numpy(), np.ones((8, 8), np.uint8))
    for ground, values in ((230, 230 - made // 2), (20, 20 + made // 2)):
        picture = np.full((400, 500), ground, np.uint8)
        picture[10:10 + made.shape[0], 200:200 + made.shape[1]] = values
        result = script.to_fashion_mnist(Image.fromarray(picture))
        drawn = result[0, 0].nonzero()
        assert result.shape == (1, 1, 28, 28) and result.max() == 1
        height, width = (drawn.amax(0) - drawn.amin(0) + 1).tolist()
        assert max(height, width) >= 27
        edges = drawn.amin(0) + drawn.amax(0)
        assert all(abs(edge - 27) <= 2 for edge in edges.tolist())  # in the middle
    assert torch.equal(script.to_fashion_mnist(image_of(fashion[1], 0)), fashion[1][[0]][0])
    with pytest.raises(UserError, match="nothing is in it"):
        script.to_fashion_mnist(Image.new("RGB", (30, 40), "red"))


def test_cifar10_takes_the_middle_square():
    picture = Image.new("RGB", (300, 100), "red")
    picture.paste("blue", (100, 0, 200, 100))
    made = script.to_cifar10(picture)
    assert made.shape == (1, 3, 32, 32)
    assert torch.allclose(made[0, :, 16, 16], torch.tensor([0.0, 0.0, 1.0]), atol=0.02)
    assert made[0, 0].mean() < 0.1


def test_the_network_is_found_from_its_tensors_and_its_data_from_the_note(tmp_path):
    for model, notes, classes, shape in (
            (cnn(), {}, "0 - zero", (1, 1, 28, 28)), (lenet5(), {}, "airplane", (1, 3, 32, 32)),
            (cnn(), {"dataset": "fashion-mnist"}, "T-shirt/top", (1, 1, 28, 28)),
            (lenet5(), {"dataset": "mnist"}, "0 - zero", (1, 1, 28, 28)),
            (cnn(), {"dataset": "of another program"}, "0 - zero", (1, 1, 28, 28))):
        path = tmp_path / "model.pth"
        files.save_model(model, path, **notes)
        network = script.Network(str(path))
        assert network.classes[0] == classes
        picture = Image.new("RGB", (60, 60))
        ImageDraw.Draw(picture).line((20, 10, 20, 50), "white", 5)
        assert network.form(picture).shape == shape
        answer = network.classify(picture)
        assert answer.shape == (1, 10) and answer.sum().item() == pytest.approx(1)


# ------------------------------------------------------------------ the command line


@pytest.fixture
def digit(mnist, tmp_path):
    """The file of a picture of a seven."""
    path = tmp_path / "seven.png"
    image_of(mnist[1], 0).save(path)
    return path


def test_a_line_and_a_figure(call, mnist, digit, tmp_path):
    pair = np.hstack([mnist[1].images[i, 0].numpy() for i in (1, 2)])
    Image.fromarray(255 - pair).resize((560, 280)).save(tmp_path / "two.jpg")
    status, out, err = call(script, digit, tmp_path / "two.jpg", "--output", tmp_path / "a.png")
    first, second, last = out.splitlines()
    assert (status, err) == (0, "")
    assert first.startswith(f"{digit}: 7 - seven ") and " % (" in first
    assert second.startswith(f"{tmp_path / 'two.jpg'}: 21: 2 - two ") and ", 1 - one " in second
    assert last == f"figure: {tmp_path / 'a.png'}"
    figure = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert figure.shape == (pytest.approx(4.9 * 120, abs=2), 7 * 120)  # a row for each digit
    assert figure.min() == 0 and figure.max() == 255


def test_a_folder_stands_for_its_pictures(call, digit, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "below").mkdir()
    status, out, err = call(script, tmp_path, "--output", tmp_path / "a.pdf")
    assert (status, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()] == [str(digit), "figure"]


def test_an_unsure_answer_says_so():
    sure, unsure = torch.tensor([[0.9, 0.06, 0.04]]), torch.tensor([[0.5, 0.3, 0.2]])
    assert script.sentence(sure, "abc") == "a 90.0 % (b 6.0 %)"
    assert script.sentence(unsure, "abc") == "not sure: a 50.0 % (b 30.0 %)"
    assert script.sentence(torch.cat([unsure, sure]), "abc").startswith("?0: not sure: a")


def test_what_cannot_be_read_is_a_line_each_and_the_others_are_predicted(
        call, digit, tmp_path, monkeypatch):
    content = digit.read_bytes()
    bad = {"cut.png": content[:60], "text.png": b"not a picture", "nothing.jpg": b""}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    Image.new("L", (90, 90), 250).save(tmp_path / "blank.png")
    Image.new("1", (400, 400)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    (tmp_path / "empty").mkdir()
    names = [*bad, "blank.png", "huge.png", "empty", "gone.png"]
    status, out, err = call(script, *(tmp_path / name for name in names), digit,
                            "--output", tmp_path / "a.png")
    assert status == 2
    assert out.startswith(f"{digit}: 7 - seven")
    reasons = ["cannot be read", "not a picture", "not a picture", "nothing is drawn",
               "exceeds limit", "no pictures that Pillow reads", "No such file"]
    for line, name, reason in zip(err.splitlines(), names, reasons, strict=True):
        assert line.startswith(f"predict.py: {tmp_path / name}: ") and reason in line


@pytest.mark.parametrize("words, arguments", [
    (["name pictures"], []), (["name pictures"], ["--draw", "x.png"]),
    (["--draw is for digits"], ["--draw", "--model", GARMENTS]),
    (["--output", ".png"], ["x.png", "--output", "a.foo"]),
    (["no folder"], ["x.png", "--output", "none/a.png", "--model", MODEL]),
    (["there is no such file"], ["--model", "none.pth", "x.png"])])
def test_a_mistake_is_one_line_and_status_2(refused, words, arguments):
    refused(words, script, *arguments)


def test_a_model_of_another_network_is_named(call, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    status, out, err = call(script, "x.png", "--model", tmp_path / "other.pth")
    assert (status, out) == (2, "") and "none of the networks cnn, lenet5, resnet18" in err


def test_a_large_jpeg_is_decoded_small(tmp_path, monkeypatch):
    sizes, prepared = [], pictures.prepared
    monkeypatch.setattr(pictures, "prepared", lambda image, mode: (
        sizes.append(image.size) or prepared(image, mode)))
    Image.new("RGB", (4000, 3000)).save(tmp_path / "large.jpg")
    assert pictures.read(tmp_path / "large.jpg").size == (400, 300)
    assert sizes == [(1000, 750)]


# ------------------------------------------------------------------ the window


def events(window, *points, name="motion_notify_event"):
    """Have matplotlib send mouse events at points of the paper, in its pixels."""
    canvas = window.figure.canvas
    for point in points:
        x, y = window.left.transData.transform(point)
        canvas.callbacks.process(name, MouseEvent(name, canvas, x, y, button=1))


def draw(window, *points):
    events(window, points[0], name="button_press_event")
    events(window, *points[1:])
    events(window, points[-1], name="button_release_event")


def press(window, key):
    canvas = window.figure.canvas
    canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, key))


def test_drawing_is_followed(network):
    figure = Figure(figsize=(10, 4))
    FigureCanvasAgg(figure)
    window = drawing.Window(figure, network)
    figure.canvas.draw()
    assert window.right.get_title() == "" and not window.paper.strokes
    seven = [(80, 60), (130, 60), (200, 60), (180, 110), (150, 170), (130, 230)]
    draw(window, *seven)
    assert window.right.get_title() == "7"
    assert window.paper.strokes == [[pytest.approx(point) for point in seven]]
    bars = [bar.get_width() for bar in window.right.patches]
    assert np.argmax(bars) == 7 and sum(bars) == pytest.approx(1, abs=1e-5)
    given = np.asarray(window.middle.images[0].get_array())
    assert given.shape == (28, 28) and given.max() == 1
    events(window, (10, 10))  # the pen is up
    draw(window, (30, 250))  # a click is a dot
    assert len(window.paper.strokes) == 2
    press(window, "z")
    assert len(window.paper.strokes) == 1 and window.right.get_title() == "7"
    press(window, "c")
    press(window, "z")
    assert not window.paper.strokes and window.right.get_title() == ""
    events(window, (500, 500), name="button_press_event")  # beside the paper
    assert not window.paper.strokes
    events(window, (50, 50), name="button_press_event")
    press(window, "c")  # while the button is down
    events(window, (60, 60))
    assert not window.paper.strokes
    events(window, (50, 50), name="button_press_event")
    events(window, (500, 50), (60, 60))  # off the paper and back
    assert window.paper.strokes == [[pytest.approx((50, 50))]]


def test_the_prediction_follows_the_pen_before_it_is_lifted(network):
    figure = Figure(figsize=(10, 4))
    FigureCanvasAgg(figure)
    window = drawing.Window(figure, network)
    figure.canvas.draw()
    events(window, (140, 40), name="button_press_event")
    for y in range(60, 240, 20):
        window.shown_at = 0  # as if time had passed
        events(window, (140, y))
    assert window.right.get_title() == "1"


def test_without_a_window_one_line_says_so(refused):
    assert matplotlib.get_backend().lower() == "agg"
    refused(["--draw needs a window"], script, "--draw", "--model", MODEL)
