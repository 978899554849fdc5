"""What surfaces are made of: a pattern, a tint, gloss, glow, and how they answer the depth sensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.data.rooms import textures
from pipeline.data.rooms.textures import TEXELS, Paint, Pattern, Range

_WHITE = (1.0, 1.0)
_TIMBER = (0.055, 0.105)
"""Hues from cherry to pine"""
_EARTH = (0.01, 0.11)
FIT = (0.0, 0.0)
"""Instead of a tile size: the pattern is stretched once over the face."""


@dataclass(frozen=True)
class Finish:
    """A family of materials; `Palette` draws members of it at random."""

    pattern: Pattern
    tile_m: Range
    value: Range
    """sRGB brightness of the tint"""
    saturation: Range = (0.03, 0.3)
    hue: Range | None = None
    gloss: float = 0.0
    glow: float = 0.0
    """Radiance of the surface relative to that of the scene's `lit_by`"""
    lit_by: Literal["window", "lamp"] = "window"
    infrared: float = 1.0
    """Part of the surface from which the depth sensor gets its pattern back"""
    members: int = 1
    """How many different ones a scene may hold"""


FINISHES = {
    "plaster": Finish(textures.plaster, (1.5, 3.0), (0.74, 0.97), (0.0, 0.18), members=2),
    "wallpaper": Finish(textures.wallpaper, (0.8, 2.0), (0.72, 0.92), (0.04, 0.2)),
    "brick": Finish(textures.brick, (1.1, 1.5), (0.5, 0.85), (0.1, 0.5), _EARTH),
    "panelling": Finish(textures.planks, (1.0, 1.5), (0.5, 0.85), (0.2, 0.5), _TIMBER),
    "ceiling": Finish(textures.plaster, (2.0, 3.0), (0.85, 0.97), (0.0, 0.05)),
    "ceiling_panels": Finish(textures.ceiling_panels, (1.8, 1.8), (0.85, 0.95), (0.0, 0.05)),
    "planks": Finish(textures.planks, (1.0, 1.8), (0.35, 0.65), (0.25, 0.55), _TIMBER, gloss=0.25),
    "tiles": Finish(textures.tiles, (1.2, 2.0), (0.4, 0.68), (0.02, 0.2), gloss=0.35),
    "carpet": Finish(textures.carpet, (0.8, 1.2), (0.3, 0.6), (0.03, 0.2)),
    "rug": Finish(textures.rug, FIT, _WHITE, FIT),
    "trim": Finish(textures.plaster, (1.0, 1.0), (0.75, 0.95), (0.0, 0.1), gloss=0.1),
    "wood": Finish(textures.wood, (0.8, 1.4), (0.45, 0.9), (0.3, 0.6), _TIMBER, gloss=0.12, members=2),
    "dark_wood": Finish(textures.wood, (0.8, 1.4), (0.25, 0.45), (0.3, 0.6), _TIMBER, gloss=0.15, infrared=0.95),
    "lacquer": Finish(textures.plaster, (1.0, 1.0), (0.4, 0.95), (0.0, 0.3), gloss=0.2, members=2),
    "counter": Finish(textures.granite, (0.6, 0.9), (0.3, 0.9), (0.0, 0.2), gloss=0.4, infrared=0.9),
    "metal": Finish(textures.plaster, (1.0, 1.0), (0.4, 0.75), (0.0, 0.04), gloss=0.7, infrared=0.55),
    "black": Finish(textures.plaster, (1.0, 1.0), (0.1, 0.2), (0.0, 0.1), gloss=0.3, infrared=0.45),
    "fabric": Finish(textures.fabric, (0.5, 1.0), (0.3, 0.8), (0.05, 0.5), members=3),
    "cushion": Finish(textures.fabric, (0.3, 0.5), (0.4, 0.9), (0.1, 0.65), members=3),
    "linen": Finish(textures.fabric, (0.7, 1.2), (0.75, 0.97), (0.0, 0.12)),
    "leather": Finish(textures.plaster, (0.8, 0.8), (0.15, 0.5), (0.1, 0.5), gloss=0.25, infrared=0.85),
    "leaves": Finish(textures.leaves, (0.25, 0.4), (0.4, 0.65), (0.1, 0.3), (0.2, 0.35)),
    "pot": Finish(textures.plaster, (0.5, 0.5), (0.35, 0.8), (0.1, 0.5), members=2),
    "plastic": Finish(textures.plaster, (0.5, 0.5), (0.35, 0.9), (0.1, 0.75), gloss=0.2, members=4),
    "cardboard": Finish(textures.wood, (0.5, 0.5), (0.55, 0.7), (0.35, 0.45), _TIMBER, members=2),
    "paper": Finish(textures.plaster, (0.5, 0.5), (0.8, 0.97), (0.0, 0.1)),
    "books": Finish(textures.books, FIT, _WHITE, FIT, members=4),
    "painting": Finish(textures.painting, FIT, _WHITE, FIT, members=3),
    "door": Finish(textures.door, FIT, (0.5, 0.95), (0.0, 0.35), _TIMBER, gloss=0.1),
    "cupboard": Finish(textures.cupboard, FIT, (0.4, 0.95), (0.05, 0.4), gloss=0.15, members=2),
    "drawers": Finish(textures.drawers, FIT, (0.4, 0.95), (0.05, 0.4), gloss=0.15, members=2),
    "whiteboard": Finish(textures.whiteboard, FIT, _WHITE, FIT, gloss=0.4, infrared=0.8),
    "screen": Finish(textures.screen, FIT, _WHITE, FIT, gloss=0.5, glow=0.05, infrared=0.25),
    "curtain": Finish(textures.curtain, FIT, (0.5, 0.9), (0.05, 0.4)),
    "blinds": Finish(textures.blinds, FIT, (0.85, 0.97), (0.0, 0.1), glow=0.3, infrared=0.7),
    "outdoors": Finish(textures.outdoors, FIT, _WHITE, FIT, glow=2.0, infrared=0.12),
    "lampshade": Finish(
        textures.plaster, (1.0, 1.0), (0.9, 1.0), (0.05, 0.2), glow=1.0, lit_by="lamp", infrared=0.9
    ),
}


class Tiles:
    """The tiles of a scene as pyramids one after another, each painted when `paint` is first asked for it."""

    def __init__(self, paints: Sequence[Paint]) -> None:
        self._paints = paints
        self._painted = np.zeros(len(paints), bool)
        self.coloured = np.zeros(len(paints), bool)
        """(tiles,) whether a painted tile's channels differ"""
        self.texels = np.empty((3, len(paints) * TEXELS), np.uint8)
        """Square roots of the reflectance; of a tile without colours only the first plane is filled"""

    def paint(self, shown: np.ndarray) -> None:
        """Fill the tiles for which `shown` (tiles,) holds."""
        for number in np.flatnonzero(shown & ~self._painted).tolist():
            planes = textures.pyramid(self._paints[number]())
            self.texels[: len(planes), number * TEXELS : (number + 1) * TEXELS] = planes
            self.coloured[number] = len(planes) == 3
            self._painted[number] = True

    def average(self, number: int) -> np.ndarray:
        """(3,) float64 linear reflectance of a painted tile."""
        coarsest = self.texels[:, (number + 1) * TEXELS - 4 : (number + 1) * TEXELS]
        channels = coarsest if self.coloured[number] else coarsest[[0, 0, 0]]
        return ((channels.T / 255.0) ** 2).mean(axis=0)


@dataclass(frozen=True)
class MaterialTable:
    """m materials as columns."""

    tiles: Tiles
    texture: np.ndarray
    """(m,) int number of the tile in `tiles`"""
    tint: np.ndarray
    """(m, 3) float32 linear"""
    tile_m: np.ndarray
    """(m,) float32 side of the tile; 0 = stretched over the face"""
    gloss: np.ndarray
    """(m,) float32"""
    glow: np.ndarray
    """(m, 3) float32 radiance"""
    infrared: np.ndarray
    """(m,) float32"""

    def reflectance(self, materials: np.ndarray) -> np.ndarray:
        """(k, 3) float32 linear, averaged over the tile, of the k materials with these numbers."""
        texture = self.texture[materials]
        self.tiles.paint(np.isin(np.arange(len(self.tiles.coloured)), texture))
        average = np.stack([self.tiles.average(number) for number in texture.tolist()])
        return (average * self.tint[materials]).astype(np.float32)


class Palette:
    """Draws the materials of one scene, so that all its chairs share a wood and its rooms a taste."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._members: dict[str, list[int]] = {}
        self._paints: list[Paint] = []
        # A dozen finishes are plain paint and differ in tint; one tile serves them all.
        self._plain_tile: int | None = None
        self._rows: list[tuple[int, np.ndarray, float, Finish]] = []

    def pick(self, name: str) -> int:
        """A material of the finish `name`: one used before, or a new one while the finish allows more."""
        members = self._members.setdefault(name, [])
        finish = FINISHES[name]
        if len(members) < finish.members and (not members or self._rng.random() < 0.6):
            members.append(self._draw(finish))
            return members[-1]
        return members[int(self._rng.integers(len(members)))]

    def _draw(self, finish: Finish) -> int:
        tint = (
            np.ones(3)
            if finish.value == _WHITE
            else textures.muted(self._rng, finish.value, finish.saturation, finish.hue)
        )
        tile = self._plain_tile if finish.pattern is textures.plaster else None
        if tile is None:
            tile = len(self._paints)
            self._paints.append(finish.pattern(self._rng))
        if finish.pattern is textures.plaster:
            self._plain_tile = tile
        self._rows.append((tile, tint, self._rng.uniform(*finish.tile_m), finish))
        return len(self._rows) - 1

    def members(self, name: str) -> list[int]:
        return self._members.get(name, [])

    def table(self, window_radiance: np.ndarray, lamp_radiance: np.ndarray) -> MaterialTable:
        """All materials drawn so far, glowing with the given (3,) linear radiances."""
        finishes = [row[3] for row in self._rows]
        tint = np.array([row[1] for row in self._rows], np.float32)
        source = {"window": window_radiance, "lamp": lamp_radiance}
        return MaterialTable(
            tiles=Tiles(self._paints),
            texture=np.array([row[0] for row in self._rows], np.intp),
            tint=tint,
            tile_m=np.array([row[2] for row in self._rows], np.float32),
            gloss=np.array([finish.gloss for finish in finishes], np.float32),
            glow=np.array([finish.glow * source[finish.lit_by] for finish in finishes], np.float32),
            infrared=np.array([finish.infrared for finish in finishes], np.float32),
        )
