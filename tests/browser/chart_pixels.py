"""Pixels of a screenshot: how far the text of a chart stands out from its ground, as a person sees it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float64]
SCALE = 3
"""Device pixels for a unit of the page, so that thin strokes have a middle that is not blended."""


def decoded(png: bytes) -> Pixels:
    """(rows, columns, 3), 0 to 1. 8 bits a channel, as Chromium writes it (PNG, third edition, 2025)."""
    import zlib

    file = io.BytesIO(png)
    assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    data, width, height, channels = b"", 0, 0, 0
    while kind := file.read(8):
        size = int.from_bytes(kind[:4], "big")
        content = file.read(size + 4)[:size]
        if kind[4:] == b"IHDR":
            width, height = int.from_bytes(content[:4], "big"), int.from_bytes(content[4:8], "big")
            assert content[8] == 8
            channels = {2: 3, 6: 4}[content[9]]
        elif kind[4:] == b"IDAT":
            data += content
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + width * channels)
    out = np.zeros((height, width * channels), np.int64)
    above = np.zeros(width * channels, np.int64)
    for number, row in enumerate(rows):
        above = out[number] = _unfiltered(int(row[0]), row[1:].astype(np.int64), above, channels)
    return out.reshape(height, width, channels)[:, :, :3] / 255.0


def _unfiltered(kind: int, row: NDArray[np.int64], above: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    if kind == 0:
        return row
    if kind == 2:
        return (row + above) % 256
    out = np.zeros_like(row)
    for at in range(len(row)):
        left = int(out[at - step]) if at >= step else 0
        up, corner = int(above[at]), int(above[at - step]) if at >= step else 0
        guess = left if kind == 1 else (left + up) // 2 if kind == 3 else _paeth(left, up, corner)
        out[at] = (row[at] + guess) % 256
    return out


def _paeth(left: int, up: int, corner: int) -> int:
    estimate = left + up - corner
    return min((left, up, corner), key=lambda one: abs(estimate - one))


def luminance(pixels: Pixels) -> NDArray[np.float64]:
    """Relative luminance, WCAG 2.2."""
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    found: NDArray[np.float64] = linear @ np.array([0.2126, 0.7152, 0.0722])
    return found


def contrast(png: bytes) -> float:
    """Between the most frequent colour of the picture, its ground, and what differs from it most."""
    light = luminance(decoded(png)).ravel()
    steps, counts = np.unique(light.round(4), return_counts=True)
    ground = steps[counts.argmax()]
    ratios = (np.maximum(light, ground) + 0.05) / (np.minimum(light, ground) + 0.05)
    return float(ratios.max())


def contrast_of(page: Any, element: Any) -> float:
    """Of an element as the page shows it, everything that covers it included."""
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    assert box is not None
    assert box["width"] > 0
    clip = {"x": box["x"], "y": box["y"], "width": max(box["width"], 1), "height": max(box["height"], 1)}
    return contrast(page.screenshot(clip=clip))
