"""Colours as numbers: what CSS says, how two of them contrast, how hues belong together."""

from __future__ import annotations

import colorsys
import math
import re

RGBA = tuple[float, float, float, float]  # red, green, blue in [0, 255], opacity in [0, 1]
RGB = tuple[int, int, int]

# Sectors (centre, width) in degrees of the harmonic templates of Matsuda, as in Cohen-Or et al., "Color
# Harmonization" (SIGGRAPH 2006), figure 2, without N, which has no hue.
TEMPLATES: dict[str, tuple[tuple[float, float], ...]] = {
    "i": ((0.0, 18.0),),
    "V": ((0.0, 93.6),),
    "L": ((0.0, 18.0), (90.0, 79.2)),
    "I": ((0.0, 18.0), (180.0, 18.0)),
    "T": ((0.0, 180.0),),
    "Y": ((0.0, 93.6), (180.0, 18.0)),
    "X": ((0.0, 93.6), (180.0, 93.6)),
}


def parse(text: str) -> RGBA:
    """Return a computed colour, e.g. "rgb(1, 2, 3)", "rgba(1, 2, 3, 0.5)", "color(srgb 0.1 0.2 0.3)"."""
    numbers = [float(each) for each in re.findall(r"-?\d*\.?\d+(?:e-?\d+)?", text.removeprefix("color(srgb"))]
    if len(numbers) < 3:
        return 0.0, 0.0, 0.0, 0.0
    scale = 255.0 if text.startswith("color(") else 1.0
    red, green, blue = (min(max(each * scale, 0.0), 255.0) for each in numbers[:3])
    return red, green, blue, numbers[3] if len(numbers) > 3 else 1.0


def over(top: RGBA, below: RGBA) -> RGBA:
    """Return a colour laid over another."""
    alpha = top[3] + below[3] * (1 - top[3])
    if alpha <= 0:
        return 0.0, 0.0, 0.0, 0.0
    red, green, blue = ((top[i] * top[3] + below[i] * below[3] * (1 - top[3])) / alpha for i in range(3))
    return red, green, blue, alpha


def contrast(a: RGBA, b: RGBA) -> float:
    """Return the contrast ratio of two opaque colours, in [1, 21] (WCAG 2.2, "contrast ratio")."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def hue(pixel: RGB) -> tuple[float, float]:
    """Return hue in degrees and chroma (largest minus smallest channel) in [0, 1] of a pixel."""
    red, green, blue = (channel / 255.0 for channel in pixel)
    return colorsys.rgb_to_hsv(red, green, blue)[0] * 360.0, max(red, green, blue) - min(red, green, blue)


def discord(weights: dict[int, float]) -> float:
    """Return the mean distance in degrees of hues to the nearest sector of the template that fits them best.

    `weights` is degree -> how much there is of it (Cohen-Or et al. 2006, equation 1).
    """
    total = sum(weights.values())
    if not total:
        return 0.0
    best = 180.0
    for sectors in TEMPLATES.values():
        for turn in range(0, 360, 10):
            far = sum(
                weight * min(max(_apart(degree, centre + turn) - width / 2, 0.0) for centre, width in sectors)
                for degree, weight in weights.items()
            )
            best = min(best, far / total)
    return best


def _apart(a: float, b: float) -> float:
    return abs((a - b + 180.0) % 360.0 - 180.0)


def _luminance(colour: RGBA) -> float:
    """Return the relative luminance (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else math.pow((c + 0.055) / 1.055, 2.4) for c in (v / 255 for v in colour[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
