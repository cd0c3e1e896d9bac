"""A detection set that is drawn on the spot: shapes of five kinds on textured backgrounds."""

import numpy as np

# Each kind says where it is: below 0 inside, in coordinates in which it reaches from -1 to 1.
KINDS = {
    "disc": lambda x, y: np.hypot(x, y) - 1,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.25,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.85,
    "triangle": lambda x, y: np.maximum(0.87 * np.abs(x) - 0.5 * y, y) - 0.45,
    "cross": lambda x, y: np.minimum(
        np.maximum(np.abs(x) - 1, np.abs(y) - 0.3), np.maximum(np.abs(x) - 0.3, np.abs(y) - 1)
    ),
}
NAMES = list(KINDS)
MOST_OVERLAP = 0.3  # intersection over union of two boxes in an image


def draw(count, pixels, seed):
    """(images, annotations in COCO's form): one set for one seed.

    Images are uint8 of (count, pixels, pixels, 3), with one to four shapes each, of a fifth to
    three fifths of its width, turned and stretched; later ones lie on earlier ones, whose boxes
    are those of the whole shape.
    """
    generator = np.random.default_rng(seed)
    images = np.empty((count, pixels, pixels, 3), np.uint8)
    annotations = []
    for number in range(count):
        canvas = background(generator, pixels)
        boxes = []
        for _ in range(generator.integers(1, 5)):
            kind = int(generator.integers(len(NAMES)))
            placed = place(generator, canvas, NAMES[kind], boxes)
            if placed is not None:
                canvas, box = placed
                boxes.append(box)
                annotations.append(annotation(len(annotations) + 1, number, kind, box))
        noise = generator.normal(0, generator.uniform(2, 10), canvas.shape)
        images[number] = np.clip(canvas + noise, 0, 255).round()
    return images, {
        "images": [
            {"id": i, "width": pixels, "height": pixels, "file_name": f"{i:06}.png"}
            for i in range(count)
        ],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)],
    }


def annotation(number, image, kind, box):
    """One box (x, y, width, height) as COCO writes it."""
    x, y, width, height = map(float, box)
    return {
        "id": number,
        "image_id": image,
        "category_id": kind + 1,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
    }


def background(generator, pixels):
    """Two textures, one over the other, from one colour to another: (pixels, pixels, 3)."""
    axis = np.linspace(-1, 1, pixels)
    x, y = np.meshgrid(axis, axis)
    mix = 0.0
    for _ in range(2):
        angle = generator.uniform(0, 2 * np.pi)
        along = (np.cos(angle) * x + np.sin(angle) * y) * generator.uniform(0.5, 8)
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * along + generator.uniform(0, 6))
        mix = mix + (wave if generator.random() < 0.5 else wave.round())
    low, high = generator.uniform(0, 255, (2, 3))
    high = low + generator.uniform(0.1, 0.4) * (high - low)
    return low + 0.5 * mix[..., None] * (high - low)


def place(generator, canvas, name, boxes):
    """(the canvas with a shape on it, its box), or None if it has no room among the others."""
    pixels = len(canvas)
    half = pixels * np.exp(generator.uniform(np.log(0.11), np.log(0.3)))
    stretch = np.exp(generator.uniform(-0.25, 0.25))
    angle = generator.uniform(-0.35, 0.35)
    center = generator.uniform(half, pixels - half, 2)
    y, x = np.mgrid[:pixels, :pixels] + 0.5
    x, y = x - center[0], y - center[1]
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    distance = KINDS[name](x / (half * stretch), y / (half / stretch)) * half
    covered = np.clip(0.5 - distance, 0, 1)
    rows, columns = (np.flatnonzero((covered > 0.5).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    box = (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
    if any(overlap(box, other) > MOST_OVERLAP for other in boxes):
        return None
    ground = canvas[covered > 0.5].mean(axis=0)
    while np.abs((colour := generator.uniform(0, 255, 3)) - ground).max() < 100:
        pass  # one that can be told from what is behind it
    shade = colour * (1 + generator.uniform(0, 0.3) * (y / pixels))[..., None]
    return canvas + covered[..., None] * (shade - canvas), box


def overlap(one, other):
    """Intersection over union of two boxes (x, y, width, height)."""
    (x, y, w, h), (u, v, s, t) = one, other
    common = max(0, min(x + w, u + s) - max(x, u)) * max(0, min(y + h, v + t) - max(y, v))
    return common / (w * h + s * t - common)
