"""Reads the PNGs that the browser writes (8 bits a channel, not interlaced), small ones: this is plain Python."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass
class Picture:
    """Pixels as rows of (red, green, blue), 0 to 255."""

    width: int
    height: int
    rows: list[list[tuple[int, int, int]]]


def read_png(data: bytes) -> Picture:
    """Return the pixels of a PNG in RGB or RGBA (PNG specification, third edition). Raises `ValueError` for another."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("not a PNG")
    place, packed, width, height, channels = len(_SIGNATURE), bytearray(), 0, 0, 0
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            channels = {2: 3, 6: 4}.get(colour, 0)
            if depth != 8 or not channels or interlaced:
                raise ValueError("only plain 8-bit RGB and RGBA")
        elif kind == b"IDAT":
            packed += body
        place += 12 + length
    stride, raw, before = width * channels, zlib.decompress(bytes(packed)), bytearray(width * channels)
    rows = []
    for number in range(height):
        start = number * (stride + 1)
        before = _unfilter(raw[start], bytearray(raw[start + 1 : start + 1 + stride]), before, channels)
        rows.append(list(zip(before[0::channels], before[1::channels], before[2::channels], strict=True)))
    return Picture(width=width, height=height, rows=rows)


def _unfilter(kind: int, line: bytearray, before: bytearray, step: int) -> bytearray:
    """Undo the filter of one row, section 9 of the specification."""
    if kind == 1:
        for i in range(step, len(line)):
            line[i] = (line[i] + line[i - step]) & 255
    elif kind == 2:
        for i, above in enumerate(before):
            line[i] = (line[i] + above) & 255
    elif kind == 3:
        for i, above in enumerate(before):
            left = line[i - step] if i >= step else 0
            line[i] = (line[i] + (left + above) // 2) & 255
    elif kind == 4:
        for i, above in enumerate(before):
            left, corner = (line[i - step], before[i - step]) if i >= step else (0, 0)
            guess = left + above - corner
            to_left, to_above, to_corner = abs(guess - left), abs(guess - above), abs(guess - corner)
            best = left if to_left <= to_above and to_left <= to_corner else above if to_above <= to_corner else corner
            line[i] = (line[i] + best) & 255
    return line
