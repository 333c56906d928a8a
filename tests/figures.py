"""Visible faults of a figure: texts that overlap or leave the figure, axes without labels."""

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg

TOUCH = 1.0  # allowed overlap of texts in pixels


def faults(figure) -> list[str]:
    """Texts that overlap or leave the figure, powers apart from their numbers, axes without a label; one line each."""
    root = figure.figure if hasattr(figure, "figure") else figure
    canvas = FigureCanvasAgg(root)
    canvas.draw()
    renderer = canvas.get_renderer()
    found, texts = [], []
    for number, axes in enumerate(root.axes):
        if not axes.axison or not axes.get_visible():
            continue
        for axis in (axes.xaxis, axes.yaxis) if not hasattr(axes, "coords") else ():  # astropy has ticks of its own
            place = f"axes {number}, {axis.axis_name}"
            shown = [tick for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()) if tick in drawn(axis)]
            labels = [text for tick in shown for text in (tick.label1, tick.label2) if seen(text)]
            texts += [(place, text) for text in labels]
            if seen(axis.label):
                texts.append((f"{place} label", axis.label))
            elif labels:
                found.append(f"{place} has numbers and no label")
            if seen(axis.offsetText):
                found.append(f"{place} has {axis.offsetText.get_text()!r} apart from its numbers")
            low, high = sorted(axis.get_view_interval())
            if labels and not axis.get_scale() == "log" and len(labels) < 2 and low < high:
                found.append(f"{place} has {len(labels)} number")
        texts += [(f"axes {number} title", t) for t in (axes.title, axes._left_title, axes._right_title) if seen(t)]
        texts += [(f"axes {number} text", text) for text in axes.texts if seen(text)]
        legend = axes.get_legend()
        if legend is not None:
            texts += [(f"axes {number} legend", text) for text in legend.get_texts() if seen(text)]
    texts += [("figure", text) for text in root.texts if seen(text)]
    boxes = [(place, text.get_text(), corners(text, renderer)) for place, text in texts]
    whole = root.bbox
    for place, text, box in boxes:
        x, y = box.T
        if (
            x.min() < whole.x0 - TOUCH
            or x.max() > whole.x1 + TOUCH
            or y.min() < whole.y0 - TOUCH
            or y.max() > whole.y1 + TOUCH
        ):
            found.append(f"{place}: {text!r} leaves the figure")
    for (place, text, box), (other, another, second) in combinations(boxes, 2):
        if overlap(box, second):
            found.append(f"{place}: {text!r} overlaps {another!r} of {other}")
    return found


def drawn(axis):
    """Ticks inside the view."""
    return axis._update_ticks()


def seen(text) -> bool:
    return text.get_visible() and bool(text.get_text().strip())


def corners(text, renderer):
    """Corners [4, 2] in pixels of the rotated rectangle about a text."""
    import numpy as np
    from matplotlib.transforms import Affine2D

    turn = text.get_rotation()
    box = text.get_window_extent(renderer)
    if turn % 90.0 == 0:
        return np.array([[box.x0, box.y0], [box.x1, box.y0], [box.x1, box.y1], [box.x0, box.y1]])
    # unrotated size about the middle of the rotated extent
    text.set_rotation(0.0)
    flat = text.get_window_extent(renderer)
    text.set_rotation(turn)
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.5 * np.array([flat.width, flat.height])
    middle = np.array([0.5 * (box.x0 + box.x1), 0.5 * (box.y0 + box.y1)])
    return Affine2D().rotate_deg(turn).transform(half) + middle


def overlap(one, other) -> bool:
    """Whether two rectangles overlap by more than a touch: no side of either separates them."""
    import numpy as np

    for box in (one, other):
        for side in (box[1] - box[0], box[2] - box[1]):
            normal = np.array([-side[1], side[0]]) / max(np.hypot(*side), 1e-9)
            a, b = one @ normal, other @ normal
            if a.max() - TOUCH <= b.min() or b.max() - TOUCH <= a.min():
                return False
    return True
