"""The pictures of a report: as many as a page can hold, evenly chosen of each kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from markupsafe import Markup

from lightning_debug.picture import Bars, Image, Picture
from lightning_debug.report.thinning import evenly
from lightning_debug.sinks.run_folder import png

MOST_BYTES = 600_000
MOST_KINDS = 12
MOST_OF_A_KIND = 24
MOST_BARS = 24
WIDE, HIGH = 440, 320


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image or some bars on the page.

    Attributes:
        picture: What is shown.
        source: The image as an address.
        width: Of an image, in pixels of the screen: small ones are enlarged.
        bars: Label, value and its length in per cent of the longest one.
        more: Number of bars that are left out.
    """

    picture: Image | Bars
    source: Markup | str = ""
    width: int = 0
    bars: list[tuple[str, float, float]] = field(default_factory=list)
    more: int = 0


@dataclass(frozen=True, kw_only=True)
class Group:
    """The pictures of one kind; ``left_out`` counts those that there was no room for."""

    kind: str
    shown: list[Shown]
    left_out: int


def gallery(pictures: Iterable[Picture]) -> list[Group]:
    """Return the images and bars of a run by kind."""
    kinds: dict[str, list[Image | Bars]] = defaultdict(list)
    for picture in pictures:
        if not isinstance(picture, (Image, Bars)):
            continue
        if picture.kind in kinds or len(kinds) < MOST_KINDS:
            kinds[picture.kind].append(picture)
    return [_group(kind, of_kind, MOST_BYTES // len(kinds)) for kind, of_kind in kinds.items()]


def _group(kind: str, pictures: list[Image | Bars], most_bytes: int) -> Group:
    shown = [_shown(picture) for picture in evenly(pictures, MOST_OF_A_KIND)]
    while (size := sum(len(s.source) for s in shown)) > most_bytes:
        shown = evenly(shown, min(len(shown) - 1, len(shown) * most_bytes // size))
    return Group(kind=kind, shown=shown, left_out=len(pictures) - len(shown))


def _shown(picture: Image | Bars) -> Shown:
    if isinstance(picture, Image):
        source = Markup(f"data:image/png;base64,{png(picture.pixels)}")
        return Shown(picture=picture, source=source, width=_width(*picture.pixels.shape[:2]))
    pairs = list(zip(picture.labels, picture.values, strict=False))
    # The longest bars say most, in the order in which the things are.
    large = sorted(pairs, key=lambda pair: -abs(pair[1]))[:MOST_BARS]
    longest = max((abs(value) for _, value in large), default=0.0) or 1.0
    least = abs(large[-1][1]) if large else 0.0
    kept = [pair for pair in pairs if abs(pair[1]) >= least][:MOST_BARS]
    bars = [(label, value, 100.0 * abs(value) / longest) for label, value in kept]
    return Shown(picture=picture, bars=bars, more=len(pairs) - len(kept))


def _width(height: int, width: int) -> int:
    """Return how wide an image is shown: all of its pixels equally large, in a box of its own."""
    scale = min(WIDE / width, HIGH / height)
    return max(1, int(width * (int(scale) if scale > 1 else scale)))
