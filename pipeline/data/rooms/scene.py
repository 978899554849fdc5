"""Furnished rooms: what stands where, and what lights it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.data.rooms import furniture
from pipeline.data.rooms.furniture import Draw, Piece
from pipeline.data.rooms.materials import MaterialTable, Palette
from pipeline.data.rooms.solids import Kind, Solid, SolidTable, Vector
from pipeline.data.rooms.textures import Range

_CLEARANCE = 0.04
"""Metres kept between pieces, so that none touches another."""


@dataclass(frozen=True)
class Light:
    """A point of a lamp or window."""

    position: np.ndarray
    """(3,) metres"""
    axis: np.ndarray
    """(3,) unit vector of the strongest emission"""
    intensity: np.ndarray
    """(3,) linear RGB along the axis, radiance times square metres"""
    spill: float
    """Part of the intensity that leaves in every direction; the rest falls with the cosine to the axis"""


@dataclass(frozen=True)
class Scene:
    kind: str
    """NYU's name for the type of room"""
    size: Vector
    """Metres along x, y, z; the room fills [0, size]"""
    solids: SolidTable
    """Number 0 is the room itself"""
    materials: MaterialTable
    lights: tuple[Light, ...]


class Room:
    """A room being furnished. Boxes along the axes stand for the pieces when they are kept apart."""

    def __init__(self, rng: np.random.Generator, palette: Palette, size: Vector, wall: int) -> None:
        self.rng = rng
        self.palette = palette
        self.size = size
        self.wall_material = wall
        self.solids: list[Solid] = []
        self._taken: list[tuple[np.ndarray, np.ndarray]] = []

    def wall_length(self, wall: int) -> float:
        return self.size[wall % 2]

    def on_wall(self, piece: Piece, wall: int, along: float, height: float = 0.0, away: float = 0.0) -> Piece:
        """`piece` with its back towards `wall` (0: y = 0, 1: x = max, 2: y = max, 3: x = 0)."""
        width, depth, _ = self.size
        x, y, yaw = (
            (along, away, 0.0),
            (width - away, along, np.pi / 2),
            (along, depth - away, np.pi),
            (away, along, -np.pi / 2),
        )[wall]
        return piece.moved(x, y, height, yaw)

    def reserve(self, low: np.ndarray, high: np.ndarray) -> None:
        self._taken.append((low, high))

    def put(self, piece: Piece, clearance: float = _CLEARANCE) -> bool:
        """Add `piece` unless it would leave the room or meet another; say whether it was added."""
        if not piece.solids:
            return False
        low, high = piece.bounds()
        if (low < -1e-6).any() or (high > np.array(self.size) + 1e-6).any():
            return False
        for taken_low, taken_high in self._taken:
            if (low < taken_high + clearance).all() and (high > taken_low - clearance).all():
                return False
        self.reserve(low, high)
        self.solids += piece.solids
        return True

    def against_wall(self, draw: Draw, tries: int = 12, walls: tuple[int, ...] = (0, 1, 2, 3)) -> bool:
        piece = draw(self.rng, self.palette)
        low, high = piece.bounds()
        for _ in range(tries):
            wall = int(self.rng.choice(walls))
            room = self.wall_length(wall) - (high[0] - low[0])
            if room <= 0:
                continue
            gap = self.rng.uniform(0.02, 0.06) + 0.02
            along = self.rng.uniform(0, room)
            # Along walls 2 and 3 a piece's right points towards lower coordinates.
            start = along - low[0] if wall < 2 else along + high[0]
            if self.put(self.on_wall(piece, wall, start, 0.0, gap - low[1])):
                return True
        return False

    def in_the_open(self, draw: Draw, tries: int = 12, spread: float = 1.0, turned: bool = False) -> bool:
        """Somewhere on the floor, within `spread` of the way from the middle to the walls."""
        piece = draw(self.rng, self.palette)
        for _ in range(tries):
            x, y = (side * (0.5 + spread * self.rng.uniform(-0.5, 0.5)) for side in self.size[:2])
            yaw = self.rng.uniform(-np.pi, np.pi) if turned else self.rng.integers(4) * np.pi / 2
            yaw += self.rng.normal(0, 0.05) if not turned and self.rng.random() < 0.3 else 0.0
            if self.put(piece.moved(x, y, 0, yaw)):
                return True
        return False

    def hang(self, draw: Draw, height: Range, tries: int = 8) -> bool:
        """On a wall, the origin between the heights given."""
        piece = draw(self.rng, self.palette)
        low, high = piece.bounds()
        for _ in range(tries):
            wall = int(self.rng.integers(4))
            half = max(-low[0], high[0])
            if self.wall_length(wall) < 2 * half + 0.1:
                continue
            along = self.rng.uniform(half + 0.05, self.wall_length(wall) - half - 0.05)
            if self.put(self.on_wall(piece, wall, along, self.rng.uniform(*height)), 0.08):
                return True
        return False


Furnish = Callable[[Room], None]


@dataclass(frozen=True)
class RoomKind:
    name: str
    long_m: Range
    short_m: Range
    high_m: Range
    floors: tuple[str, ...]
    furnish: Furnish
    ceiling: str = "ceiling"
    """Name of the finish"""
    windows: tuple[int, int] = (1, 3)


def _several(rng: np.random.Generator, low: int, high: int) -> range:
    return range(int(rng.integers(low, high + 1)))


def _rug(room: Room, width: Range = (1.4, 2.6), depth: Range = (1.1, 1.9)) -> None:
    """Lies under what stands on it, so it takes no room; the middle keeps it off the walls."""
    size = room.rng.uniform(*width), room.rng.uniform(*depth)
    w, d = min(size[0], room.size[0] - 0.6), min(size[1], room.size[1] - 0.6)
    x, y = (side * room.rng.uniform(0.42, 0.58) for side in room.size[:2])
    x, y = (
        np.clip(x, w / 2 + 0.1, room.size[0] - w / 2 - 0.1),
        np.clip(y, d / 2 + 0.1, room.size[1] - d / 2 - 0.1),
    )
    rug = furniture.flat_rug(room.rng, room.palette, w, d)
    room.solids += rug.moved(float(x), float(y), 0, 0).solids


def _decorate(room: Room, pictures: tuple[int, int] = (1, 5)) -> None:
    for _ in _several(room.rng, *pictures):
        room.hang(furniture.picture, (1.05, 1.5))
    for draw, chance in (
        (furniture.plant, 0.5),
        (furniture.floor_lamp, 0.4),
        (furniture.waste_bin, 0.4),
        (furniture.boxes, 0.35),
    ):
        if room.rng.random() < chance:
            room.against_wall(draw)
    for draw, chance in ((furniture.ball, 0.25), (furniture.boxes, 0.2), (furniture.stool, 0.25)):
        if room.rng.random() < chance:
            room.in_the_open(draw, turned=True)


def _bedroom(room: Room) -> None:
    room.against_wall(furniture.bed, tries=30)
    for _ in _several(room.rng, 1, 2):
        room.against_wall(furniture.nightstand)
    room.against_wall(furniture.wardrobe)
    room.against_wall(furniture.dresser)
    for draw in (furniture.desk, furniture.bookshelf, furniture.armchair, furniture.tv_stand):
        if room.rng.random() < 0.4:
            room.against_wall(draw)
    if room.rng.random() < 0.5:
        _rug(room)
    if room.rng.random() < 0.3:
        room.hang(furniture.wall_shelf, (1.2, 1.7))
    _decorate(room)


def _living_room(room: Room) -> None:
    room.against_wall(furniture.sofa, tries=30)
    room.against_wall(furniture.tv_stand)
    room.in_the_open(furniture.coffee_table, spread=0.4)
    if room.rng.random() < 0.7:
        _rug(room)
    for _ in _several(room.rng, 1, 2):
        if room.rng.random() < 0.5:
            room.in_the_open(furniture.armchair, spread=0.8, turned=True)
        else:
            room.against_wall(furniture.armchair)
    for draw in (
        furniture.bookshelf,
        furniture.bookshelf,
        furniture.side_table,
        furniture.sofa,
        furniture.dresser,
    ):
        if room.rng.random() < 0.6:
            room.against_wall(draw)
    if room.rng.random() < 0.5:
        room.in_the_open(furniture.dining_set)
    if room.rng.random() < 0.3:
        room.hang(furniture.wall_shelf, (1.2, 1.7))
    _decorate(room)


def _kitchen(room: Room) -> None:
    first = int(room.rng.integers(4))
    for wall in (first, *((first + 1) % 4, (first + 2) % 4)[: int(room.rng.integers(0, 3))]):
        width = min(room.wall_length(wall) - 1.3, room.rng.uniform(1.6, 3.6))
        if width > 0.8:
            room.against_wall(furniture.counter_of(width), 20, (wall,))
    for draw in (furniture.fridge, furniture.stove):
        room.against_wall(draw, tries=20)
    if room.rng.random() < 0.8:
        room.in_the_open(furniture.dining_set, tries=20, spread=0.7)
    if room.rng.random() < 0.4:
        room.against_wall(furniture.bookshelf)
    _decorate(room, (0, 2))


def _dining_room(room: Room) -> None:
    room.in_the_open(furniture.dining_set, tries=30, spread=0.4)
    if room.rng.random() < 0.5:
        _rug(room, (2.0, 3.0), (1.6, 2.2))
    for draw in (
        furniture.dresser,
        furniture.dresser,
        furniture.bookshelf,
        furniture.side_table,
        furniture.chair,
    ):
        if room.rng.random() < 0.75:
            room.against_wall(draw)
    _decorate(room)


def _office(room: Room) -> None:
    for _ in _several(room.rng, 1, 4):
        room.against_wall(furniture.desk)
    if room.rng.random() < 0.6:
        room.in_the_open(furniture.desk, spread=0.7)
    for _ in _several(room.rng, 1, 3):
        room.against_wall(furniture.filing_cabinet)
    for _ in _several(room.rng, 1, 3):
        room.against_wall(furniture.bookshelf)
    if room.rng.random() < 0.5:
        room.hang(furniture.board, (0.9, 1.0))
    if room.rng.random() < 0.5:
        room.in_the_open(furniture.office_chair, turned=True)
    _decorate(room, (0, 3))


def _study(room: Room) -> None:
    room.against_wall(furniture.desk, tries=30)
    for _ in _several(room.rng, 2, 5):
        room.against_wall(furniture.bookshelf)
    room.against_wall(furniture.armchair)
    for draw in (furniture.sofa, furniture.side_table, furniture.filing_cabinet):
        if room.rng.random() < 0.5:
            room.against_wall(draw)
    if room.rng.random() < 0.6:
        _rug(room)
    room.hang(furniture.wall_shelf, (1.2, 1.7))
    _decorate(room)


def _classroom(room: Room) -> None:
    """Rows of desks before a board; the aisle and the back stay free."""
    rng = room.rng
    room.put(room.on_wall(furniture.board(rng, room.palette), 0, room.size[0] / 2, 0.9))
    pitch_x, pitch_y = rng.uniform(1.65, 2.0), rng.uniform(1.5, 1.8)
    for row in range(int((room.size[1] - 3.6) // pitch_y) + 1):
        for column in range(int((room.size[0] - 1.6) // pitch_x)):
            if rng.random() < 0.85:
                desk = furniture.school_desk(rng, room.palette)
                x = 0.9 + (column + 0.5) * pitch_x + rng.normal(0, 0.04)
                room.put(desk.moved(x, 2.2 + row * pitch_y + rng.normal(0, 0.04), 0, rng.normal(0, 0.03)))
    room.in_the_open(furniture.coffee_table)
    for draw in (furniture.bookshelf, furniture.bookshelf, furniture.filing_cabinet, furniture.dresser):
        room.against_wall(draw)
    for _ in _several(rng, 1, 4):
        room.hang(furniture.picture, (1.2, 1.7))
    _decorate(room, (1, 3))


def _bookstore(room: Room) -> None:
    """Shelves along the walls and back to back in the room, as in a library."""
    rng = room.rng
    for _ in range(int(rng.integers(6, 13))):
        room.against_wall(furniture.bookshelf)

    def island(rng: np.random.Generator, palette: Palette) -> Piece:
        shelf = furniture.bookshelf(rng, palette)
        back = shelf.bounds()[0][1]
        return furniture.joined(shelf.moved(0, -back), shelf.moved(0, back, 0, np.pi))

    for _ in _several(rng, 0, 2):
        room.in_the_open(island, spread=0.7)
    for draw in (furniture.armchair, furniture.dining_set, furniture.coffee_table):
        if rng.random() < 0.6:
            room.in_the_open(draw)
    _decorate(room, (0, 2))


def _playroom(room: Room) -> None:
    _rug(room, (1.8, 3.0), (1.5, 2.4))
    for _ in _several(room.rng, 2, 4):
        room.in_the_open(furniture.ball, turned=True)
    for _ in _several(room.rng, 1, 3):
        room.in_the_open(furniture.boxes, turned=True)
    room.in_the_open(furniture.coffee_table, spread=0.7)
    for draw in (furniture.bookshelf, furniture.dresser, furniture.sofa, furniture.boxes, furniture.tv_stand):
        if room.rng.random() < 0.7:
            room.against_wall(draw)
    for _ in _several(room.rng, 0, 2):
        room.in_the_open(furniture.stool, turned=True)
    _decorate(room, (2, 6))


def _reception(room: Room) -> None:
    if room.rng.random() < 0.3:
        room.in_the_open(furniture.column_of(room.size[2], room.wall_material), spread=0.8)
    for _ in _several(room.rng, 2, 4):
        room.against_wall(furniture.sofa)
    for _ in _several(room.rng, 1, 3):
        room.in_the_open(furniture.coffee_table)
    for _ in _several(room.rng, 2, 4):
        room.in_the_open(furniture.armchair, turned=True)
    for _ in _several(room.rng, 1, 3):
        room.in_the_open(furniture.dining_set)
    for _ in _several(room.rng, 2, 4):
        room.against_wall(furniture.plant)
    for _ in range(2):
        room.against_wall(furniture.bookshelf)
    _decorate(room, (2, 6))


_PANELS = "ceiling_panels"
ROOM_KINDS = (
    RoomKind("bedroom", (3.2, 4.4), (2.8, 3.6), (2.4, 2.8), ("carpet", "planks"), _bedroom),
    RoomKind("living_room", (5.0, 7.5), (4.0, 5.4), (2.4, 3.0), ("carpet", "planks", "planks"), _living_room),
    RoomKind("kitchen", (3.0, 4.2), (2.6, 3.4), (2.4, 2.8), ("tiles", "tiles", "planks"), _kitchen),
    RoomKind("office", (4.0, 6.5), (3.4, 5.0), (2.5, 3.0), ("carpet", "planks"), _office, _PANELS),
    RoomKind("dining_room", (3.6, 5.8), (3.2, 4.5), (2.4, 3.0), ("planks", "carpet", "tiles"), _dining_room),
    RoomKind("classroom", (7.0, 9.2), (5.5, 7.2), (2.7, 3.4), ("tiles", "carpet"), _classroom, _PANELS, (2, 4)),
    RoomKind("study", (3.0, 4.2), (2.8, 3.6), (2.4, 2.9), ("carpet", "planks"), _study),
    RoomKind("bookstore", (6.0, 9.2), (5.0, 6.8), (2.7, 3.4), ("carpet", "planks", "tiles"), _bookstore),
    RoomKind("playroom", (3.6, 5.0), (3.0, 4.0), (2.4, 2.8), ("carpet", "planks"), _playroom),
    RoomKind("reception_room", (7.5, 10), (5.5, 7.5), (2.8, 3.8), ("tiles", "planks"), _reception, _PANELS, (2, 5)),
)


def furnished(kind: RoomKind, rng: np.random.Generator) -> Scene:
    """A room of `kind` with all that stands in it."""
    palette = Palette(rng)
    long, short, high = (rng.uniform(*span) for span in (kind.long_m, kind.short_m, kind.high_m))
    size = (long, short, high) if rng.random() < 0.5 else (short, long, high)
    wall_finish = str(rng.choice(["plaster", "plaster", "plaster", "plaster", "wallpaper"]))
    wall = palette.pick(wall_finish)
    walls = [wall] * 4
    if rng.random() < 0.35:
        accent = str(rng.choice(["plaster", "wallpaper", "brick", "panelling"]))
        walls[int(rng.integers(4))] = palette.pick(accent)
    floor = palette.pick(str(rng.choice(kind.floors)))
    shell = Solid(
        Kind.ROOM,
        (size[0] / 2, size[1] / 2, size[2] / 2),
        (size[0] / 2, size[1] / 2, size[2] / 2),
        (walls[3], walls[1], walls[0], walls[2], floor, palette.pick(kind.ceiling)),
        casts_shadow=False,
    )
    room = Room(rng, palette, size, wall)
    room.solids.append(shell)
    _openings(room, kind)
    _light_fittings(room)
    kind.furnish(room)
    _skirting(room)
    return _lit(room, kind)


def _openings(room: Room, kind: RoomKind) -> None:
    """Doors, with the floor before them kept free, and windows, with tall furniture kept from them."""
    rng, palette = room.rng, room.palette
    if rng.random() < 0.2:
        side, material = rng.uniform(0.4, 1.1), room.wall_material
        x, y = (float(rng.choice([side / 2, length - side / 2])) for length in room.size[:2])
        room.put(Piece((furniture.box((side, side, room.size[2]), (x, y, 0), material),)))
    for _ in _several(rng, 1, 2):
        door, wall = furniture.door(rng, palette), int(rng.integers(4))
        along = rng.uniform(0.6, room.wall_length(wall) - 0.6)
        stand = furniture.box((0.9, 0.9, 2.0), (0, 0.5, 0), palette.pick("trim"))
        placed = room.on_wall(door, wall, along)
        if room.put(placed):
            room.reserve(*room.on_wall(Piece((stand,)), wall, along).bounds())
    sides = rng.permutation(4)[: int(rng.integers(1, 3))]
    for _ in _several(rng, *kind.windows):
        wall = int(rng.choice(sides))
        width = min(rng.uniform(0.8, 2.2), room.wall_length(wall) - 1.4)
        sill = rng.uniform(0.75, 1.05)
        height = min(rng.uniform(1.0, 1.6), room.size[2] - sill - 0.3)
        pane = furniture.window(rng, palette, width, height)
        along = rng.uniform(width / 2 + 0.6, room.wall_length(wall) - width / 2 - 0.6)
        room.put(room.on_wall(pane, wall, along, sill))


def _light_fittings(room: Room) -> None:
    """One in a room, a grid of them in a hall."""
    width, depth, height = room.size
    columns, rows = max(1, round(width / 3.5)), max(1, round(depth / 3.5))
    pendant = columns * rows == 1 and room.rng.random() < 0.5
    fitting = (
        furniture.pendant(room.rng, room.palette, room.rng.uniform(0.3, 0.6))
        if pendant
        else furniture.ceiling_light(room.rng, room.palette)
    )
    for column in range(columns):
        for row in range(rows):
            x, y = (column + 0.5) * width / columns, (row + 0.5) * depth / rows
            room.put(fitting.moved(x, y, height))


def _skirting(room: Room) -> None:
    """Along all walls, thinner than the gap that furniture leaves and than door frames."""
    trim, tall = room.palette.pick("trim"), room.rng.uniform(0.07, 0.14)
    for wall in range(4):
        length = room.wall_length(wall)
        strip = Piece((furniture.box((length, 0.014, tall), (0, 0.007, 0), trim, shadow=False),))
        room.solids += room.on_wall(strip, wall, length / 2).solids


_DAYLIGHT = np.array([0.85, 0.97, 1.1])
_SUNLIGHT = np.array([1.1, 1.0, 0.82])
_LAMPLIGHT = np.array([1.25, 0.97, 0.66])
_TUBELIGHT = np.array([0.95, 1.03, 0.98])


def _lit(room: Room, kind: RoomKind) -> Scene:
    """By day mostly from the windows, by night from the lamps, often from both."""
    rng, palette = room.rng, room.palette
    time = rng.random()
    day = 1.0 if time < 0.75 else 0.02
    lamps_on = time > 0.35
    sky = day * rng.uniform(0.5, 1.5) * (_DAYLIGHT + rng.uniform(0, 1) * (_SUNLIGHT - _DAYLIGHT))
    bulb = _TUBELIGHT if kind.ceiling == _PANELS else _LAMPLIGHT
    lamp = (rng.uniform(0.6, 1.4) if lamps_on else 0.0) * bulb
    table = SolidTable.of(room.solids)
    lights = _window_lights(table, palette.members("outdoors"), sky, rng) if day == 1.0 else []
    if lamps_on or not lights:
        lamp = lamp if lamps_on else bulb
        lights += _lamp_lights(table, palette.members("lampshade"), lamp, room.size, rng)
    # A shade of 0.1 m² with intensity I looks as bright as I / 0.1; halved, most shades still burn out.
    return Scene(kind.name, room.size, table, palette.table(sky, 5 * lamp), tuple(lights))


def _window_lights(table: SolidTable, panes: list[int], sky: np.ndarray, rng: np.random.Generator) -> list[Light]:
    """Points spread over each pane, shining into the room as a Lambertian surface."""
    numbers = np.flatnonzero(np.isin(table.material[:, 3], panes))
    each = max(2, 8 // max(1, len(numbers)))
    lights = []
    for number in numbers:
        half, cos, sin = table.half[number], float(table.cos[number]), float(table.sin[number])
        inward = np.array([-sin, cos, 0.0])
        along = np.array([cos, sin, 0.0])
        area = 4 * half[0] * half[2]
        for index in range(each):
            x = ((index + rng.random()) / each * 2 - 1) * half[0]
            z = (rng.random() * 2 - 1) * half[2]
            position = table.centre[number] + x * along + np.array([0, 0, z]) + 0.06 * inward
            axis = inward + np.array([0, 0, -0.25])  # the sky is brighter than the ground
            lights.append(Light(position, axis / np.linalg.norm(axis), sky * area / each, 0.0))
    return lights


_MAX_LAMPS = 8


def _lamp_lights(
    table: SolidTable, shades: list[int], lamp: np.ndarray, size: Vector, rng: np.random.Generator
) -> list[Light]:
    """A point below each shade; fittings under the ceiling shine down, others around."""
    numbers = np.flatnonzero(np.isin(table.material[:, 0], shades))
    above = numbers[table.centre[numbers, 2] > size[2] - 1.2]
    below = np.setdiff1d(numbers, above)
    if rng.random() < 0.2 and len(below):
        above = above[:0]
    elif rng.random() < 0.4:
        below = below[:0]
    chosen = np.concatenate([above, below])[:_MAX_LAMPS]
    # Doubled points soften the only shadows of a small room.
    points = 2 if len(chosen) <= 3 else 1
    floor_area = size[0] * size[1]
    ceiling_share = lamp * (0.12 * floor_area / max(1, len(above)) / points)
    lights = []
    for number in chosen:
        overhead = number in above
        for _ in range(points):
            offset = np.append(
                rng.uniform(-0.12, 0.12, 2), -float(table.half[number, 2]) - 0.03 if overhead else 0.0
            )
            intensity = ceiling_share if overhead else lamp * 0.45 / points
            lights.append(Light(table.centre[number] + offset, np.array([0.0, 0.0, -1.0]), intensity, 0.35))
    return lights
