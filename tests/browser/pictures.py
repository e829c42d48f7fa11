"""Pictures as small as they can be without looking worse: PNG with a palette of 256 colours."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

__all__ = ["packed"]

# The colours that are seen most and differ from each other, and for each pixel the nearest of them.
_REDUCE = """async (url) => {
  const image = await createImageBitmap(await (await fetch(url)).blob());
  const drawing = new OffscreenCanvas(image.width, image.height).getContext("2d");
  drawing.drawImage(image, 0, 0);
  const { data } = drawing.getImageData(0, 0, image.width, image.height);
  const pixels = new Uint32Array(data.buffer), counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  const apart = (a, b) => {
    const red = (a & 255) - (b & 255), green = (a >> 8 & 255) - (b >> 8 & 255);
    const blue = (a >> 16 & 255) - (b >> 16 & 255);
    return red * red + green * green + blue * blue;
  };
  const seen = [...counts].sort((a, b) => b[1] - a[1]).map(([pixel]) => pixel), palette = [];
  for (let least = 256; least >= 1 && palette.length < Math.min(256, seen.length); least /= 4)
    for (const pixel of seen)
      if (palette.length < 256 && palette.every((one) => apart(one, pixel) >= least)) palette.push(pixel);
  const nearest = new Map(seen.map((pixel) => {
    let best = 0;
    for (let at = 1; at < palette.length; at++) if (apart(palette[at], pixel) < apart(palette[best], pixel)) best = at;
    return [pixel, best];
  }));
  const indexes = Uint8Array.from(pixels, (pixel) => nearest.get(pixel));
  let text = "";
  for (let at = 0; at < indexes.length; at += 8192) text += String.fromCharCode(...indexes.subarray(at, at + 8192));
  return { width: image.width, height: image.height, palette, indexes: btoa(text) };
}"""


async def packed(context: Any, png: bytes) -> bytes:
    """Return *png* with a palette; the browser of *context* does the counting."""
    page = await context.new_page()
    found = await page.evaluate(_REDUCE, f"data:image/png;base64,{base64.b64encode(png).decode()}")
    await page.close()
    width, height, indexes = found["width"], found["height"], base64.b64decode(found["indexes"])
    rows = b"".join(b"\0" + indexes[at : at + width] for at in range(0, len(indexes), width))
    colours = b"".join(struct.pack("<I", pixel)[:3] for pixel in found["palette"])
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", colours), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
