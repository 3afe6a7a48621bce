"""A window to draw digits in; what the network makes of them follows the pen."""

import time

import numpy as np
from PIL import Image, ImageDraw

from support import UserError

SIDE, PEN = 280, 20  # pixels of the paper, and of the pen across


class Paper:
    """Strokes, lists of points (x, y), in pixels from the top left."""

    def __init__(self):
        self.strokes = []

    def image(self):
        """A grey PIL image, black on white."""
        image = Image.new("L", (SIDE, SIDE), 255)
        draw = ImageDraw.Draw(image)
        for stroke in self.strokes:
            draw.line(stroke, fill=0, width=PEN, joint="curve")
            for x, y in (stroke[0], stroke[-1]):  # round ends, and a dot for a click
                draw.ellipse((x - PEN / 2, y - PEN / 2, x + PEN / 2, y + PEN / 2), fill=0)
        return image


class Window:
    """A figure to draw in, with what a predict.Network is given and its probabilities beside it.
    """

    def __init__(self, figure, network):
        self.figure, self.network = figure, network
        self.paper, self.drawing, self.shown_at = Paper(), False, 0.0
        self.left, self.middle, self.right = figure.subplots(1, 3)
        for name, act in (("button_press_event", self.press), ("key_press_event", self.key),
                          ("motion_notify_event", self.move),
                          ("button_release_event", self.release)):
            figure.canvas.mpl_connect(name, act)
        self.show()

    def press(self, event):
        if event.inaxes is self.left:
            self.drawing = True
            self.paper.strokes.append([(event.xdata, event.ydata)])
            self.show()

    def move(self, event):
        self.drawing = self.drawing and event.inaxes is self.left
        if self.drawing:
            self.paper.strokes[-1].append((event.xdata, event.ydata))
            if time.perf_counter() - self.shown_at > 0.05:  # else it falls behind the pen
                self.show()

    def release(self, event):
        self.drawing = False
        self.show()

    def key(self, event):
        self.drawing = False
        if event.key == "c":
            self.paper.strokes.clear()
        elif event.key == "z" and self.paper.strokes:
            self.paper.strokes.pop()
        self.show()

    def show(self):
        image = self.paper.image()
        given, rows = np.zeros((28, 28)), np.zeros((1, 10))
        try:
            images = self.network.form(image)
            rows = self.network.probabilities(images).numpy()
            given = np.hstack(images[:, 0].numpy())
        except UserError:  # nothing is drawn yet
            pass
        for axis in (self.left, self.middle, self.right):
            axis.clear()
        self.left.imshow(image, cmap="gray", vmin=0, vmax=255)
        self.left.set(title="draw here; c: clear, z: undo", xticks=[], yticks=[])
        self.middle.imshow(given, cmap="gray", vmin=0, vmax=1)
        self.middle.set(title="what the network is given", xticks=[], yticks=[])
        self.right.barh(range(10), rows[-1])
        self.right.set(title="".join(str(row.argmax()) for row in rows if row.any()),
                       xlim=(0, 1), ylim=(9.5, -0.5), xlabel="probability (of the last digit)",
                       yticks=range(10), yticklabels=self.network.classes)
        self.figure.canvas.draw_idle()
        self.shown_at = time.perf_counter()


def open_window(network):
    """Open a Window and wait until it is closed. Raises UserError where there can be none."""
    import matplotlib
    keys = {name: [] for name in matplotlib.rcParams if name.startswith("keymap.")}
    with matplotlib.rc_context(keys):  # "c" would go back to an earlier view
        try:
            from matplotlib import pyplot
            figure = pyplot.figure(figsize=(10, 4), layout="constrained")
        except ImportError as error:
            raise UserError(f"--draw: no window can be opened: {error}") from None
        if figure.canvas.required_interactive_framework is None:
            pyplot.close(figure)
            raise UserError("--draw needs a window; there is no display, or matplotlib's backend "
                            f"{matplotlib.get_backend()} opens none")
        figure.window = Window(figure, network)  # kept with it, for its events refer to it weakly
        pyplot.show(block=True)
