"""The corruptions of Tiny-ImageNet-C once more, pixel by pixel, for their tests.

Written from the formulas, in plain loops over small images of floats.
"""

import numpy as np


def bounce(index, size, repeat):
    """Mirrors an index at the borders, whose pixels `repeat` or not."""
    while not 0 <= index < size:
        index = -index - repeat if index < 0 else 2 * (size - 1) - index + repeat
    return index


def clamp(index, size, _=None):
    return min(max(index, 0), size - 1)


def convolve(image, kernel, border):
    """Sums the pixels around each one; `border` says which index is beyond."""
    reach_y, reach_x = kernel.shape[0] // 2, kernel.shape[1] // 2
    height, width = image.shape[:2]
    out = np.zeros_like(image, dtype=float)
    for y in range(height):
        for x in range(width):
            for (j, i), weight in np.ndenumerate(kernel):
                row = border(y + j - reach_y, height)
                out[y, x] += weight * image[row, border(x + i - reach_x, width)]
    return out


def gaussian(image, sigma, truncate=4, border=clamp):
    reach = int(truncate * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2)) if reach else np.ones(1)
    weights /= weights.sum()
    return convolve(convolve(image, weights[None], border), weights[:, None], border)


def enlarge(image, factor):
    """Enlarges the middle of an image to its size, by `numpy.interp`."""
    size = len(image)
    crop = int(np.ceil(size / factor))
    top = (size - crop) // 2
    new = round(crop * factor)
    cut = (new - size) // 2
    at = np.linspace(top, top + crop - 1, new)[cut : cut + size]
    pixels = np.arange(size)
    rows = np.apply_along_axis(lambda column: np.interp(at, pixels, column), 0, image)
    return np.apply_along_axis(lambda row: np.interp(at, pixels, row), 1, rows)


def drag(image, radius, sigma, degrees):
    """Blurs toward one side, as ImageMagick's motion blur."""
    height, width = image.shape[:2]
    steps = range(2 * radius + 1)
    weights = np.array([np.exp(-(i**2) / (2 * sigma**2)) for i in steps])
    weights /= weights.sum()
    angle = degrees * np.pi / 180
    out = np.zeros_like(image, dtype=float)
    for y in range(height):
        for x in range(width):
            for i, weight in enumerate(weights):
                row = clamp(y + int(np.ceil(i * np.sin(angle) - 0.5)), height)
                column = clamp(x + int(np.ceil(i * np.cos(angle) - 0.5)), width)
                out[y, x] += weight * image[row, column]
    return np.rint(out)


def plasma(chances, decay):
    """The diamond-square algorithm on a torus."""
    size = len(chances)
    heights = np.zeros((size, size))
    step, wobble = size, 100.0
    while step > 1:
        half = step // 2
        for y in range(half, size, step):
            for x in range(half, size, step):
                around = [(y + j, x + i) for j in (-half, half) for i in (-half, half)]
                mean = np.mean([heights[j % size, i % size] for j, i in around])
                heights[y, x] = mean + wobble**2 * chances[y, x]
        for y in range(0, size, half):
            for x in range(0, size, half):
                if (y // half + x // half) % 2:
                    around = (
                        (y - half, x),
                        (y + half, x),
                        (y, x - half),
                        (y, x + half),
                    )
                    mean = np.mean([heights[j % size, i % size] for j, i in around])
                    heights[y, x] = mean + wobble**2 * chances[y, x]
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return heights / heights.max()


def sample(image, y, x, repeat):
    """One pixel between four."""
    height, width = image.shape[:2]
    top, left = int(np.floor(y)), int(np.floor(x))
    total = 0
    for row, of_row in ((top, top + 1 - y), (top + 1, y - top)):
        for column, of_column in ((left, left + 1 - x), (left + 1, x - left)):
            inside = bounce(row, height, repeat), bounce(column, width, repeat)
            total = total + of_row * of_column * image[inside]
    return total


def affine_sources(points, moved, size):
    """Where each pixel of the moved image comes from: x and y."""
    matrix = np.linalg.inv(np.array([[*point, 1] for point in moved])) @ points
    return {(y, x): (x, y, 1) @ matrix for y in range(size) for x in range(size)}


def canny(image, low, high):
    """Edges of a gray image of integers, by Sobel's gradient."""
    size = len(image)
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    across, down = convolve(image, sobel, clamp), convolve(image, sobel.T, clamp)
    large = np.pad(np.abs(across) + np.abs(down), 1)
    ridge = np.zeros((size, size), bool)
    for y in range(size):
        for x in range(size):
            angle = np.degrees(np.arctan2(down[y, x], across[y, x])) % 180
            here = large[y + 1, x + 1]
            if here <= low:
                continue
            if angle < 22.5 or angle > 157.5:
                ridge[y, x] = here > large[y + 1, x] and here >= large[y + 1, x + 2]
            elif 67.5 < angle < 112.5:
                ridge[y, x] = here > large[y, x + 1] and here >= large[y + 2, x + 1]
            else:
                side = 1 if angle < 90 else -1
                before, behind = large[y, x + 1 - side], large[y + 2, x + 1 + side]
                ridge[y, x] = here > before and here > behind
    edges = ridge & (large[1:-1, 1:-1] > high)
    todo = list(zip(*np.nonzero(edges), strict=True))
    while todo:
        y, x = todo.pop()
        for j in range(max(y - 1, 0), min(y + 2, size)):
            for i in range(max(x - 1, 0), min(x + 2, size)):
                if ridge[j, i] and not edges[j, i]:
                    edges[j, i] = True
                    todo.append((j, i))
    return edges


def chamfer(edges):
    """Distances to the nearest edge by steps of length 1, 1.4 and 2.1969, up to 20."""
    size = len(edges)
    found = np.full((size, size), 20.0)
    for y in range(size):
        for x in range(size):
            for j, i in zip(*np.nonzero(edges), strict=True):
                small, large = sorted((abs(y - j), abs(x - i)))
                knights = min(small, large - small)
                rest = 1.0 if 2 * small <= large else 1.4
                steps = large - 2 * small if rest == 1 else 2 * small - large
                length = knights * 2.1969 + steps * rest
                found[y, x] = min(found[y, x], length)
    return found
