"""Names of byte formats, as drivers announce them, and the codecs that read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from sdt_ros.events.codecs import evt2, evt3, evt21, libcaer, libcaer_cmp, mono

# A codec is a module: see `sdt_ros.events.codecs`. Prophesee drivers write the format's name with or without a dot.
CODECS: MappingProxyType[str, Any] = MappingProxyType(
    {
        "evt2": evt2,
        "evt21": evt21,
        "evt3": evt3,
        "libcaer": libcaer,
        "libcaer_cmp": libcaer_cmp,
        "mono": mono,
    }
)
_SPELLINGS = {"evt2.0": "evt2", "evt2.1": "evt21", "evt3.0": "evt3"}
MAX_SIDE = 8192  # [px]; no event sensor comes near it: a larger geometry is a corrupted message
MAX_PIXELS = 1 << 22  # as many as evt3 can address; windows of more would take memory by the gigabyte
MAX_TEXT = 256  # [characters] of the `encoding` field; drivers write 40 at most


@dataclass(frozen=True, slots=True)
class Encoding:
    """A format's name with the options that follow it, as in `evt21;height=720;width=1280`.

    Attributes:
        name: key of `CODECS`.
        width: sensor columns [px], 0 when the text does not tell.
        height: sensor rows [px], 0 when the text does not tell.
        swapped_halves: whether the 32 bit halves of EVT2.1 words are exchanged (`endianness=legacy`).
    """

    name: str
    width: int = 0
    height: int = 0
    swapped_halves: bool = False

    @property
    def codec(self) -> Any:
        """The module that decodes it."""
        return CODECS[self.name]


@lru_cache(maxsize=64)
def parse_encoding(text: str) -> Encoding:
    """Read the `encoding` field of a packet.

    Raises:
        ValueError: the text is too long, the format is not known, or an option's value makes no sense. Unknown
            options are ignored, because newer drivers add some that do not change the bytes.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"the packet's encoding has {len(text)} characters: the message is corrupted")
    name, *options = (part.strip() for part in text.split(";"))
    name = _SPELLINGS.get(name.lower(), name.lower())
    if name not in CODECS:
        raise ValueError(f"unknown event encoding {text!r}; known are {', '.join(sorted(CODECS))}")
    values = dict(option.split("=", 1) for option in options if "=" in option)
    sides = {}
    for side in ("width", "height"):
        if side in values:
            if not values[side].isdecimal():
                raise ValueError(f"{side}={values[side]!r} in the event encoding {text!r} is not a number of pixels")
            sides[side] = int(values[side])
    return Encoding(name, **sides, swapped_halves=values.get("endianness") == "legacy")


def sensor_size(encoding: Encoding, width: int, height: int) -> tuple[int, int]:
    """Width and height of the sensor [px]: the packet's own, or the encoding's where the packet says 0.

    Raises:
        ValueError: neither tells, or a side or the area is larger than any sensor's.
    """
    width, height = width or encoding.width, height or encoding.height
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise ValueError(
            f"the packet's sensor size of {width}x{height} px makes no sense (1 to {MAX_SIDE} each, {MAX_PIXELS} in "
            "all); set width and height in the camera driver"
        )
    return width, height
