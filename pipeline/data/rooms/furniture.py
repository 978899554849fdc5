"""Pieces of furniture as groups of solids around a point on the floor.

Own axes of a piece: x to its right, y from its back (negative) to its front, z up; the origin lies on the
floor in the middle of the footprint. Sizes in metres are those of ordinary furniture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipeline.data.rooms.materials import Palette
from pipeline.data.rooms.solids import FACES, Kind, Solid, Vector

Draw = Callable[[np.random.Generator, Palette], "Piece"]


@dataclass(frozen=True)
class Piece:
    solids: tuple[Solid, ...]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner, each (3,), of the box around all its solids in the piece's own axes."""
        centre = np.array([solid.centre for solid in self.solids])
        extent = np.array([solid.extent for solid in self.solids])
        yaw = np.array([solid.yaw for solid in self.solids])
        cos, sin = np.abs(np.cos(yaw)), np.abs(np.sin(yaw))
        x, y, z = extent.T
        turned = np.stack([x * cos + y * sin, x * sin + y * cos, z], axis=-1)
        return (centre - turned).min(axis=0), (centre + turned).max(axis=0)

    def moved(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Piece:
        """Turned by `yaw` about its origin, then shifted."""
        cos, sin = np.cos(yaw), np.sin(yaw)
        return Piece(
            tuple(
                replace(
                    solid,
                    centre=(
                        float(cos * solid.centre[0] - sin * solid.centre[1] + x),
                        float(sin * solid.centre[0] + cos * solid.centre[1] + y),
                        float(solid.centre[2] + z),
                    ),
                    yaw=solid.yaw + yaw,
                )
                for solid in self.solids
            )
        )


def joined(*pieces: Piece) -> Piece:
    return Piece(tuple(solid for piece in pieces for solid in piece.solids))


def box(
    size: Vector,
    at: Vector,
    material: int,
    *,
    front: int | None = None,
    yaw: float = 0.0,
    shadow: bool = True,
) -> Solid:
    """A box of `size`, the middle of its underside at `at`; `front` is the material of its +y face."""
    materials = [material] * FACES
    if front is not None:
        materials[3] = front
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    return Solid(Kind.BOX, (at[0], at[1], at[2] + half[2]), half, tuple(materials), yaw, shadow)


def ellipsoid(half: Vector, at: Vector, material: int) -> Solid:
    """An ellipsoid whose lowest point is at `at`."""
    return Solid(Kind.ELLIPSOID, (at[0], at[1], at[2] + half[2]), half, (material,) * FACES)


def frustum(bottom: float, top: float, height: float, at: Vector, material: int, shadow: bool = True) -> Solid:
    """A capped cone with the middle of its underside at `at`."""
    half = (bottom, top, height / 2)
    return Solid(Kind.FRUSTUM, (at[0], at[1], at[2] + height / 2), half, (material,) * FACES, 0.0, shadow)


def _legs(width: float, depth: float, height: float, thick: float, material: int) -> list[Solid]:
    x, y = (width - thick) / 2, (depth - thick) / 2
    return [box((thick, thick, height), (sx * x, sy * y, 0), material) for sx in (-1, 1) for sy in (-1, 1)]


def _any_wood(rng: np.random.Generator, palette: Palette) -> int:
    return palette.pick(str(rng.choice(["wood", "wood", "dark_wood", "lacquer"])))


# What stands on a surface --------------------------------------------------------------------------------


def clutter(
    rng: np.random.Generator, palette: Palette, width: float, depth: float, height: float, items: int
) -> Piece:
    """Up to `items` small things on a top of `width` x `depth` at `height`, none touching another."""
    solids: list[Solid] = []
    taken: list[tuple[float, float, float]] = []
    for _ in range(4 * items):
        if len(taken) == items:
            break
        radius = rng.uniform(0.05, 0.14)
        if width < 2 * radius or depth < 2 * radius:
            continue
        x = rng.uniform(-width / 2 + radius, width / 2 - radius)
        y = rng.uniform(-depth / 2 + radius, depth / 2 - radius)
        if any(np.hypot(x - tx, y - ty) < radius + tr for tx, ty, tr in taken):
            continue
        taken.append((x, y, radius))
        solids += _trinket(rng, palette, radius).moved(x, y, height, rng.uniform(0, 6.28)).solids
    return Piece(tuple(solids))


def _trinket(rng: np.random.Generator, palette: Palette, radius: float) -> Piece:
    """Something that fits into a circle of `radius`: books, a vase, a mug, a bowl, a box or a plant."""
    kind = rng.integers(6)
    if kind == 0:
        level, pile = 0.0, []
        for _ in range(int(rng.integers(1, 5))):
            thick = rng.uniform(0.015, 0.045)
            size = (1.3 * radius * rng.uniform(0.8, 1), radius * rng.uniform(0.8, 1), thick)
            pile.append(box(size, (0, 0, level), palette.pick("plastic"), yaw=rng.uniform(-0.25, 0.25)))
            level += thick
        return Piece(tuple(pile))
    if kind == 1:
        low, high = radius * rng.uniform(0.3, 0.6), radius * rng.uniform(0.2, 0.6)
        return Piece((frustum(low, high, rng.uniform(0.15, 0.35), (0, 0, 0), palette.pick("pot")),))
    if kind == 2:
        return Piece((frustum(0.04, 0.042, 0.1, (0, 0, 0), palette.pick("plastic")),))
    if kind == 3:
        return Piece((frustum(0.5 * radius, 0.95 * radius, 0.07, (0, 0, 0), palette.pick("pot")),))
    if kind == 4:
        side = 1.2 * radius
        finish = palette.pick(str(rng.choice(["plastic", "cardboard", "lacquer"])))
        return Piece((box((side, rng.uniform(0.6, 1) * side, rng.uniform(0.06, 0.22)), (0, 0, 0), finish),))
    return Piece(
        (
            frustum(0.35 * radius, 0.5 * radius, 0.1, (0, 0, 0), palette.pick("pot")),
            ellipsoid((0.8 * radius, 0.8 * radius, 0.11), (0, 0, 0.08), palette.pick("leaves")),
        )
    )


def table_lamp(rng: np.random.Generator, palette: Palette) -> Piece:
    stem, radius = rng.uniform(0.2, 0.3), rng.uniform(0.11, 0.16)
    return Piece(
        (
            frustum(0.07, 0.03, stem, (0, 0, 0), palette.pick("pot")),
            frustum(radius, 0.65 * radius, 0.2, (0, 0, stem), palette.pick("lampshade"), shadow=False),
        )
    )


# Seats ---------------------------------------------------------------------------------------------------


def chair(rng: np.random.Generator, palette: Palette, wood: int | None = None) -> Piece:
    wood = _any_wood(rng, palette) if wood is None else wood
    seat = palette.pick("fabric") if rng.random() < 0.4 else wood
    width, depth, height = rng.uniform(0.4, 0.46), rng.uniform(0.4, 0.45), rng.uniform(0.43, 0.47)
    back, thick = rng.uniform(0.38, 0.52), 0.035
    solids = _legs(width, depth, height, thick, wood)
    solids.append(box((width, depth, 0.04), (0, 0, height), seat))
    y = -(depth - thick) / 2
    if rng.random() < 0.5:
        solids.append(box((width, thick, back), (0, y, height + 0.04), seat))
    else:
        x = (width - thick) / 2
        solids += [box((thick, thick, back), (sx * x, y, height + 0.04), wood) for sx in (-1, 1)]
        for level in np.linspace(0.35, 0.82, int(rng.integers(2, 4))):
            solids.append(box((width - 2 * thick, 0.02, 0.07), (0, y, height + 0.04 + back * level), wood))
    return Piece(tuple(solids))


def office_chair(rng: np.random.Generator, palette: Palette) -> Piece:
    seat = palette.pick(str(rng.choice(["fabric", "leather", "black"])))
    black = palette.pick("black")
    solids = [
        box((0.6, 0.05, 0.04), (0, 0, 0.05), black, yaw=rng.uniform(0, 3)),
        box((0.05, 0.6, 0.04), (0, 0, 0.05), black, yaw=rng.uniform(0, 3)),
        frustum(0.03, 0.03, 0.34, (0, 0, 0.09), palette.pick("metal")),
        box((0.48, 0.46, 0.08), (0, 0, 0.43), seat),
        box((0.06, 0.04, 0.2), (0, -0.23, 0.45), black),
        box((0.44, 0.06, rng.uniform(0.4, 0.6)), (0, -0.24, 0.62), seat),
    ]
    if rng.random() < 0.5:
        for side in (-1, 1):
            solids.append(box((0.05, 0.25, 0.03), (side * 0.27, 0, 0.66), black))
            solids.append(box((0.04, 0.05, 0.19), (side * 0.27, 0, 0.47), black))
    solids += [frustum(0.025, 0.025, 0.05, (x, y, 0), black) for x, y in ((0.2, 0.1), (-0.2, 0.1), (0, -0.2))]
    return Piece(tuple(solids))


def stool(rng: np.random.Generator, palette: Palette) -> Piece:
    wood, height = _any_wood(rng, palette), rng.uniform(0.42, 0.7)
    return Piece((*_legs(0.26, 0.26, height, 0.035, wood), frustum(0.17, 0.17, 0.04, (0, 0, height), wood)))


def _upholstered(rng: np.random.Generator, palette: Palette, width: float, seats: int) -> Piece:
    cover = palette.pick(str(rng.choice(["fabric", "fabric", "leather"])))
    foot = _any_wood(rng, palette)
    depth, seat, back = rng.uniform(0.8, 0.95), rng.uniform(0.38, 0.44), rng.uniform(0.75, 0.9)
    arm, arm_height = rng.uniform(0.12, 0.22), rng.uniform(0.55, 0.65)
    inner = width - 2 * arm
    solids = _legs(width - 0.06, depth - 0.06, 0.07, 0.06, foot)
    solids.append(box((width, depth, seat - 0.19), (0, 0, 0.07), cover))
    solids.append(box((inner, 0.22, back - seat + 0.12), (0, -depth / 2 + 0.11, seat - 0.12), cover))
    for side in (-1, 1):
        x = side * (width - arm) / 2
        solids.append(box((arm, depth, arm_height - seat + 0.12), (x, 0, seat - 0.12), cover))
    for index in range(seats):
        x = (index - (seats - 1) / 2) * inner / seats
        solids.append(box((inner / seats - 0.012, depth - 0.22, 0.12), (x, 0.11, seat - 0.12), cover))
        if rng.random() < 0.55:
            cushion = palette.pick("cushion")
            at = (x + rng.uniform(-0.05, 0.05), -depth / 2 + 0.31, seat - 0.01)
            solids.append(ellipsoid((rng.uniform(0.17, 0.23), 0.09, rng.uniform(0.16, 0.2)), at, cushion))
    return Piece(tuple(solids))


def sofa(rng: np.random.Generator, palette: Palette) -> Piece:
    seats = int(rng.integers(2, 4))
    return _upholstered(rng, palette, rng.uniform(0.65, 0.75) * seats + 0.35, seats)


def armchair(rng: np.random.Generator, palette: Palette) -> Piece:
    return _upholstered(rng, palette, rng.uniform(0.8, 0.95), 1)


# Tables --------------------------------------------------------------------------------------------------


def _table(
    rng: np.random.Generator, palette: Palette, width: float, depth: float, height: float, items: int
) -> Piece:
    wood, thick = _any_wood(rng, palette), rng.uniform(0.025, 0.05)
    top = palette.pick("lacquer") if rng.random() < 0.2 else wood
    leg = rng.uniform(0.045, 0.08)
    apron = rng.uniform(0.05, 0.1)
    solids = _legs(width - 0.06, depth - 0.06, height - thick, leg, wood)
    for side in (-1, 1):
        level = height - thick - apron
        solids.append(box((width - 0.2, 0.02, apron), (0, side * (depth / 2 - 0.06), level), wood))
    solids.append(box((width, depth, thick), (0, 0, height - thick), top))
    return joined(Piece(tuple(solids)), clutter(rng, palette, width - 0.06, depth - 0.06, height, items))


def _round_table(rng: np.random.Generator, palette: Palette, radius: float, height: float, items: int) -> Piece:
    wood = _any_wood(rng, palette)
    solids = (
        frustum(0.55 * radius, 0.12, 0.05, (0, 0, 0), wood),
        frustum(0.05, 0.05, height - 0.09, (0, 0, 0.05), wood),
        frustum(radius, radius, 0.04, (0, 0, height - 0.04), wood),
    )
    return joined(Piece(solids), clutter(rng, palette, 1.2 * radius, 1.2 * radius, height, items))


def coffee_table(rng: np.random.Generator, palette: Palette) -> Piece:
    height, items = rng.uniform(0.36, 0.48), int(rng.integers(1, 6))
    if rng.random() < 0.3:
        return _round_table(rng, palette, rng.uniform(0.3, 0.45), height, items)
    return _table(rng, palette, rng.uniform(0.8, 1.25), rng.uniform(0.5, 0.7), height, items)


def side_table(rng: np.random.Generator, palette: Palette) -> Piece:
    side, height = rng.uniform(0.38, 0.5), rng.uniform(0.45, 0.6)
    table = _table(rng, palette, side, side, height, 0)
    if rng.random() < 0.6:
        return joined(table, table_lamp(rng, palette).moved(0, 0, height))
    return joined(table, clutter(rng, palette, 0.3, 0.3, height, 2))


def _chairs_around(rng: np.random.Generator, palette: Palette, width: float, depth: float, per_side: int) -> Piece:
    """The same chair repeated, facing a table of `width` x `depth`, some drawn back or turned a little."""
    model = chair(rng, palette)
    front = model.bounds()[1][1]
    placed = []
    for side in (-1, 1):
        for index in range(per_side):
            if rng.random() < 0.12:
                continue
            x = (index - (per_side - 1) / 2) * width / per_side
            tucked = rng.uniform(-0.25, 0.12)
            y = side * (depth / 2 + front + max(tucked, -0.2))
            yaw = (0.0 if side < 0 else np.pi) + rng.normal(0, 0.08)
            placed.append(model.moved(x, y, 0, yaw))
    return joined(*placed) if placed else Piece(())


def dining_set(rng: np.random.Generator, palette: Palette) -> Piece:
    height, items = rng.uniform(0.72, 0.77), int(rng.integers(0, 6))
    if rng.random() < 0.25:
        radius = rng.uniform(0.5, 0.65)
        table = _round_table(rng, palette, radius, height, items)
        return joined(table, _chairs_around(rng, palette, 0.6, 2 * radius + 0.1, 1))
    per_side = int(rng.integers(1, 4))
    width, depth = 0.62 * per_side + rng.uniform(0.15, 0.4), rng.uniform(0.75, 0.95)
    table = _table(rng, palette, width, depth, height, items)
    return joined(table, _chairs_around(rng, palette, width - 0.2, depth, per_side))


def desk(rng: np.random.Generator, palette: Palette) -> Piece:
    """Against a wall: monitor, keyboard, lamp or books on it, a chair drawn up to it."""
    width, depth, height = rng.uniform(1.4, 1.8), rng.uniform(0.6, 0.75), rng.uniform(0.72, 0.76)
    black = palette.pick("black")
    table = _table(rng, palette, width, depth, height, 0)
    parts = [table]
    if rng.random() < 0.6:
        cabinet = box(
            (0.38, depth - 0.14, height - 0.18), (width / 2 - 0.28, 0, 0.02), palette.pick("lacquer"),
            front=palette.pick("drawers"),
        )  # fmt: skip
        parts.append(Piece((cabinet,)))
    if rng.random() < 0.8:
        screen_width = rng.uniform(0.42, 0.52)
        x = rng.uniform(-0.1, 0.08)
        monitor = Piece(
            (
                frustum(0.11, 0.1, 0.02, (0, 0, 0), black),
                box((0.05, 0.03, 0.14), (0, -0.02, 0.02), black),
                box(
                    (screen_width, 0.04, 0.6 * screen_width),
                    (0, 0.01, 0.1),
                    black,
                    front=palette.pick("screen"),
                ),
            )
        )
        keyboard = Piece((box((0.42, 0.14, 0.02), (0, 0.27, 0), palette.pick("plastic")),))
        parts.append(joined(monitor, keyboard).moved(x, -depth / 2 + 0.17, height, rng.normal(0, 0.08)))
    if rng.random() < 0.5:
        parts.append(table_lamp(rng, palette).moved(-width / 2 + 0.17, -depth / 2 + 0.2, height))
    else:
        pile = clutter(rng, palette, 0.24, depth - 0.1, height, 2)
        parts.append(pile.moved(-width / 2 + 0.17, 0))
    parts.append(clutter(rng, palette, 0.26, depth - 0.1, height, 2).moved(width / 2 - 0.18, 0))
    seat = office_chair(rng, palette) if rng.random() < 0.65 else chair(rng, palette)
    yaw = np.pi + rng.normal(0, 0.3)
    parts.append(seat.moved(rng.uniform(-0.15, 0.02), depth / 2 + rng.uniform(0.2, 0.5), 0, yaw))
    return joined(*parts)


def school_desk(rng: np.random.Generator, palette: Palette) -> Piece:
    table = _table(rng, palette, 1.4, 0.55, 0.73, int(rng.integers(0, 3)))
    model = chair(rng, palette)
    chairs = [
        model.moved(x + rng.uniform(-0.03, 0.03), 0.36 + rng.uniform(0, 0.18), 0, np.pi + rng.normal(0, 0.1))
        for x in (-0.3, 0.3)
        if rng.random() < 0.85
    ]
    return joined(table, *chairs)


# Beds and storage ----------------------------------------------------------------------------------------


def bed(rng: np.random.Generator, palette: Palette) -> Piece:
    wide = rng.random() < 0.7
    width = rng.uniform(1.4, 1.8) if wide else rng.uniform(0.9, 1.05)
    length, height = 2.05, rng.uniform(0.42, 0.58)
    frame = palette.pick("fabric") if rng.random() < 0.25 else _any_wood(rng, palette)
    linen, cover = palette.pick("linen"), palette.pick(str(rng.choice(["fabric", "cushion", "linen"])))
    y = -length / 2
    turned_down = rng.uniform(0.5, 0.8)
    solids = [
        box((width + 0.06, 0.06, rng.uniform(0.85, 1.2)), (0, y - 0.03, 0), frame),
        box((width, length, height - 0.2), (0, 0, 0), frame),
        box((width - 0.03, length - 0.02, 0.2), (0, 0, height - 0.2), linen),
        box((width + 0.04, length - turned_down, 0.27), (0, turned_down / 2 + 0.02, height - 0.23), cover),
    ]
    for x in (-width / 4, width / 4) if wide else (0.0,):
        half = (rng.uniform(0.27, 0.32), 0.2, rng.uniform(0.08, 0.11))
        pillow = palette.pick("linen") if rng.random() < 0.6 else palette.pick("cushion")
        solids.append(ellipsoid(half, (x, y + 0.25, height - 0.02), pillow))
        if rng.random() < 0.3:
            cushion = palette.pick("cushion")
            solids.append(ellipsoid((0.2, 0.1, 0.17), (x, y + 0.52, height - 0.01), cushion))
    return Piece(tuple(solids))


def nightstand(rng: np.random.Generator, palette: Palette) -> Piece:
    height = rng.uniform(0.45, 0.6)
    body = box((0.45, 0.4, height), (0, 0, 0), _any_wood(rng, palette), front=palette.pick("drawers"))
    return joined(Piece((body,)), table_lamp(rng, palette).moved(0, -0.02, height))


def _chest(rng: np.random.Generator, palette: Palette, size: Vector, front: str, items: int) -> Piece:
    body = _any_wood(rng, palette)
    solids = (
        box((size[0] - 0.04, size[1] - 0.06, 0.06), (0, -0.01, 0), body),
        box((size[0], size[1], size[2] - 0.06), (0, 0, 0.06), body, front=palette.pick(front)),
    )
    return joined(Piece(solids), clutter(rng, palette, size[0] - 0.05, size[1] - 0.1, size[2], items))


def dresser(rng: np.random.Generator, palette: Palette) -> Piece:
    size = (rng.uniform(0.8, 1.5), rng.uniform(0.42, 0.52), rng.uniform(0.75, 1.1))
    return _chest(rng, palette, size, str(rng.choice(["drawers", "cupboard"])), int(rng.integers(1, 6)))


def wardrobe(rng: np.random.Generator, palette: Palette) -> Piece:
    size = (rng.uniform(0.9, 1.8), rng.uniform(0.55, 0.65), rng.uniform(1.9, 2.25))
    return _chest(rng, palette, size, "cupboard", 0)


def filing_cabinet(rng: np.random.Generator, palette: Palette) -> Piece:
    body = palette.pick("metal") if rng.random() < 0.5 else palette.pick("lacquer")
    height = rng.uniform(0.7, 1.35)
    solids = (box((0.46, 0.6, height), (0, 0, 0), body, front=palette.pick("drawers")),)
    return joined(Piece(solids), clutter(rng, palette, 0.4, 0.5, height, int(rng.integers(0, 3))))


def tv_stand(rng: np.random.Generator, palette: Palette) -> Piece:
    width, height = rng.uniform(1.1, 1.7), rng.uniform(0.42, 0.6)
    black = palette.pick("black")
    screen_width = rng.uniform(0.8, min(1.25, width - 0.05))
    solids = (
        box((0.4, 0.22, 0.03), (0, 0, height), black),
        box((0.08, 0.05, 0.08), (0, 0, height + 0.03), black),
        box(
            (screen_width, 0.06, 0.57 * screen_width),
            (0, 0, height + 0.1),
            black,
            front=palette.pick("screen"),
        ),
    )
    return joined(_chest(rng, palette, (width, 0.45, height), "cupboard", 0), Piece(solids))


def bookshelf(rng: np.random.Generator, palette: Palette) -> Piece:
    """Open shelves: rows of books of different depth and height, gaps, and things in between."""
    width, depth = rng.uniform(0.7, 1.3), rng.uniform(0.27, 0.36)
    shelves, pitch = int(rng.integers(3, 7)), rng.uniform(0.3, 0.36)
    wood, thick = _any_wood(rng, palette), 0.025
    height = shelves * pitch + thick + 0.06
    solids = [box((width, 0.015, height), (0, -depth / 2 + 0.0075, 0), wood)]
    for side in (-1, 1):
        solids.append(box((thick, depth - 0.015, height), (side * (width - thick) / 2, 0.0075, 0), wood))
    inner = width - 2 * thick
    solids += [
        box((inner, depth - 0.015, thick), (0, 0.0075, 0.06 + level * pitch), wood) for level in range(shelves + 1)
    ]
    parts = [Piece(tuple(solids))]
    full = rng.uniform(0.5, 1.0)
    for level in range(shelves):
        base, x = 0.06 + level * pitch + thick, -inner / 2
        while x < inner / 2 - 0.1:
            run = min(rng.uniform(0.15, 0.5), inner / 2 - x)
            if rng.random() < full:
                tall, deep = rng.uniform(0.62, 0.92) * (pitch - thick), rng.uniform(0.15, depth - 0.05)
                spines = palette.pick("books")
                at = (x + run / 2, -depth / 2 + 0.015 + deep / 2, base)
                parts.append(Piece((box((run - 0.004, deep, tall), at, palette.pick("paper"), front=spines),)))
            elif run > 0.22 and rng.random() < 0.7:
                trinket = _trinket(rng, palette, 0.1)
                if trinket.bounds()[1][2] < pitch - thick - 0.01:
                    parts.append(trinket.moved(x + run / 2, 0.0, base))
            x += run
    return joined(*parts)


# Kitchen -------------------------------------------------------------------------------------------------


def counter_of(width: float) -> Draw:
    """Base units under a worktop, wall units above, things in between."""

    def counter(rng: np.random.Generator, palette: Palette) -> Piece:
        body, front, top = palette.pick("lacquer"), palette.pick("cupboard"), palette.pick("counter")
        depth, units = 0.6, max(1, round(width / 0.8))
        unit = width / units
        solids = [box((width, depth - 0.08, 0.1), (0, -0.04, 0), palette.pick("black"))]
        for index in range(units):
            x = (index - (units - 1) / 2) * unit
            face = palette.pick("drawers") if rng.random() < 0.25 else front
            solids.append(box((unit - 0.006, depth - 0.04, 0.76), (x, -0.02, 0.1), body, front=face))
            if rng.random() < 0.8:
                solids.append(box((unit - 0.006, 0.34, 0.7), (x, -depth / 2 + 0.17, 1.45), body, front=front))
        solids.append(box((width, depth, 0.04), (0, 0, 0.86), top))
        items = int(rng.integers(2, 3 + 2 * units))
        return joined(Piece(tuple(solids)), clutter(rng, palette, width - 0.1, depth - 0.1, 0.9, items))

    return counter


def fridge(rng: np.random.Generator, palette: Palette) -> Piece:
    body = palette.pick("metal") if rng.random() < 0.4 else palette.pick("trim")
    height, split = rng.uniform(1.6, 1.85), rng.uniform(0.5, 0.65)
    grip = palette.pick("metal")
    return Piece(
        (
            box((0.65, 0.62, height), (0, -0.02, 0), body),
            box((0.64, 0.04, height * split - 0.08), (0, 0.31, 0.06), body),
            box((0.64, 0.04, height * (1 - split) - 0.02), (0, 0.31, height * split + 0.01), body),
            box((0.025, 0.03, 0.4), (-0.27, 0.345, height * split - 0.5), grip),
            box((0.025, 0.03, 0.25), (-0.27, 0.345, height * split + 0.08), grip),
        )
    )


def stove(rng: np.random.Generator, palette: Palette) -> Piece:
    body, black, metal = palette.pick("trim"), palette.pick("black"), palette.pick("metal")
    solids = [
        box((0.6, 0.6, 0.9), (0, 0, 0), body),
        box((0.46, 0.02, 0.4), (0, 0.31, 0.22), black),
        box((0.5, 0.03, 0.025), (0, 0.315, 0.68), metal),
        box((0.6, 0.05, 0.12), (0, -0.275, 0.9), body),
    ]
    solids += [frustum(0.09, 0.09, 0.015, (x, y, 0.9), black) for x in (-0.15, 0.15) for y in (-0.1, 0.15)]
    if rng.random() < 0.6:
        solids.append(frustum(0.1, 0.1, rng.uniform(0.1, 0.2), (-0.15, 0.15, 0.915), metal))
    return Piece(tuple(solids))


# Everything else -----------------------------------------------------------------------------------------


def plant(rng: np.random.Generator, palette: Palette) -> Piece:
    radius, pot = rng.uniform(0.13, 0.2), rng.uniform(0.22, 0.35)
    stem, spread = rng.uniform(0.1, 0.7), rng.uniform(0.12, 0.22)
    leaves = palette.pick("leaves")
    solids = [
        frustum(0.75 * radius, radius, pot, (0, 0, 0), palette.pick("pot")),
        frustum(0.02, 0.015, stem + 0.2, (0, 0, pot), palette.pick("dark_wood")),
    ]
    for _ in range(int(rng.integers(4, 8))):
        half = (rng.uniform(0.09, 0.2), rng.uniform(0.06, 0.14), rng.uniform(0.1, 0.22))
        angle, away = rng.uniform(0, 6.28), rng.uniform(0, spread)
        at = (away * np.cos(angle), away * np.sin(angle), pot + stem + rng.uniform(-0.1, 0.25))
        solids.append(ellipsoid(half, (float(at[0]), float(at[1]), at[2]), leaves))
    return Piece(tuple(solids))


def floor_lamp(rng: np.random.Generator, palette: Palette) -> Piece:
    metal, height = palette.pick("metal"), rng.uniform(1.3, 1.6)
    radius = rng.uniform(0.16, 0.24)
    return Piece(
        (
            frustum(0.15, 0.14, 0.03, (0, 0, 0), metal),
            frustum(0.013, 0.013, height - 0.03, (0, 0, 0.03), metal),
            frustum(radius, 0.7 * radius, 0.28, (0, 0, height), palette.pick("lampshade"), shadow=False),
        )
    )


def waste_bin(rng: np.random.Generator, palette: Palette) -> Piece:
    radius = rng.uniform(0.11, 0.16)
    return Piece((frustum(0.8 * radius, radius, rng.uniform(0.25, 0.4), (0, 0, 0), palette.pick("plastic")),))


def ball(rng: np.random.Generator, palette: Palette) -> Piece:
    radius = rng.uniform(0.09, 0.3)
    return Piece((ellipsoid((radius,) * 3, (0, 0, 0), palette.pick("plastic")),))


def boxes(rng: np.random.Generator, palette: Palette) -> Piece:
    """One to three cardboard or plastic boxes, stacked."""
    solids, level = [], 0.0
    width, depth = rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.45)
    for _ in range(int(rng.integers(1, 4))):
        height = rng.uniform(0.18, 0.4)
        finish = palette.pick("cardboard") if rng.random() < 0.7 else palette.pick("plastic")
        solids.append(box((width, depth, height), (0, 0, level), finish, yaw=rng.normal(0, 0.08)))
        level, width, depth = level + height, width * rng.uniform(0.75, 1), depth * rng.uniform(0.75, 1)
    return Piece(tuple(solids))


def column_of(height: float, material: int) -> Draw:
    """A pillar from floor to ceiling."""

    def column(rng: np.random.Generator, palette: Palette) -> Piece:
        side = rng.uniform(0.3, 0.5)
        if rng.random() < 0.4:
            return Piece((frustum(side / 2, side / 2, height, (0, 0, 0), material),))
        return Piece((box((side, side, height), (0, 0, 0), material),))

    return column


# On walls and ceilings: the origin lies on the wall, y points into the room ------------------------------


def picture(rng: np.random.Generator, palette: Palette) -> Piece:
    width, height = rng.uniform(0.3, 1.0), rng.uniform(0.3, 0.8)
    frame = palette.pick(str(rng.choice(["wood", "dark_wood", "black", "trim"])))
    border = rng.uniform(0.015, 0.05)
    return Piece(
        (
            box((width + 2 * border, 0.025, height + 2 * border), (0, 0.0125, -border), frame, shadow=False),
            box((width, 0.012, height), (0, 0.026, 0), palette.pick("paper"), front=palette.pick("painting")),
        )
    )


def wall_shelf(rng: np.random.Generator, palette: Palette) -> Piece:
    width = rng.uniform(0.6, 1.2)
    board = Piece((box((width, 0.22, 0.03), (0, 0.11, 0), _any_wood(rng, palette)),))
    return joined(board, clutter(rng, palette, width - 0.05, 0.2, 0.03, int(rng.integers(2, 6))).moved(0, 0.11))


def board(rng: np.random.Generator, palette: Palette) -> Piece:
    width = rng.uniform(1.8, 3.2)
    back = box((width + 0.08, 0.02, 1.28), (0, 0.01, -0.04), palette.pick("metal"), shadow=False)
    face = box((width, 0.012, 1.2), (0, 0.024, 0), palette.pick("trim"), front=palette.pick("whiteboard"))
    return Piece((back, face))


def door(rng: np.random.Generator, palette: Palette) -> Piece:
    width, height, trim = rng.uniform(0.8, 0.95), rng.uniform(2.0, 2.1), palette.pick("trim")
    solids = [box((width, 0.04, height), (0, 0.02, 0), trim, front=palette.pick("door"), shadow=False)]
    for side in (-1, 1):
        solids.append(box((0.09, 0.06, height), (side * (width / 2 + 0.045), 0.03, 0), trim, shadow=False))
    solids.append(box((width + 0.18, 0.06, 0.09), (0, 0.03, height), trim, shadow=False))
    return Piece(tuple(solids))


def window(rng: np.random.Generator, palette: Palette, width: float, height: float) -> Piece:
    """Panes between bars, a sill, and blinds or curtains on some; the origin at the middle of the sill."""
    trim = palette.pick("trim")
    pane = palette.pick("outdoors")
    solids = [box((width, 0.008, height), (0, 0.004, 0), trim, front=pane, shadow=False)]
    for side in (-1, 1):
        solids.append(
            box((0.07, 0.05, height + 0.14), (side * (width / 2 + 0.035), 0.025, -0.07), trim, shadow=False)
        )
    solids.append(box((width, 0.05, 0.07), (0, 0.025, height), trim, shadow=False))
    solids.append(box((width + 0.2, 0.12, 0.035), (0, 0.06, -0.07), trim, shadow=False))
    bars = int(rng.integers(1, 4))
    for index in range(1, bars):
        x = (index / bars - 0.5) * width
        solids.append(box((0.045, 0.035, height), (x, 0.0175, 0), trim, shadow=False))
    if rng.random() < 0.4:
        solids.append(box((width, 0.035, 0.045), (0, 0.0175, 0.5 * height), trim, shadow=False))
    style = rng.random()
    if style < 0.3:
        drop = rng.uniform(0.3, 0.9) * height
        cover = palette.pick("blinds")
        solids.append(box((width - 0.02, 0.012, drop), (0, 0.045, height - drop), cover, shadow=False))
    elif style < 0.75:
        hang, spread = palette.pick("curtain"), rng.uniform(0.2, 0.4)
        for side in (-1, 1):
            x = side * (width / 2 + 0.1)
            solids.append(box((spread, 0.09, height + 0.35), (x, 0.165, -0.2), hang))
        solids.append(box((width + 0.7, 0.025, 0.025), (0, 0.165, height + 0.16), palette.pick("metal")))
    return Piece(tuple(solids))


def pendant(rng: np.random.Generator, palette: Palette, drop: float) -> Piece:
    """Hangs from the ceiling at the origin."""
    radius, height = rng.uniform(0.15, 0.26), rng.uniform(0.14, 0.25)
    shade = palette.pick("lampshade")
    cord = frustum(0.008, 0.008, drop, (0, 0, -drop), palette.pick("black"), shadow=False)
    if rng.random() < 0.4:
        globe = Solid(Kind.ELLIPSOID, (0, 0, -drop - radius), (radius,) * 3, (shade,) * FACES, 0.0, False)
        return Piece((cord, globe))
    return Piece((cord, frustum(radius, 0.4 * radius, height, (0, 0, -drop - height), shade, shadow=False)))


def ceiling_light(rng: np.random.Generator, palette: Palette) -> Piece:
    """A flat fitting under the ceiling: round in homes, a long panel in offices."""
    shade = palette.pick("lampshade")
    if rng.random() < 0.5:
        radius = rng.uniform(0.16, 0.25)
        return Piece((frustum(0.8 * radius, radius, 0.08, (0, 0, -0.08), shade, shadow=False),))
    return Piece((box((1.2, 0.3, 0.06), (0, 0, -0.06), shade, shadow=False),))


def flat_rug(rng: np.random.Generator, palette: Palette, width: float, depth: float) -> Piece:
    return Piece((box((width, depth, 0.012), (0, 0, 0), palette.pick("rug"), shadow=False),))
