"""Rendered indoor scenes in the layout of NYU Depth v2: the data set that needs no download."""

from pipeline.data.rooms.dataset import render_rooms

__all__ = ["render_rooms"]
