"""What is known of each source of frames: its name, its terms, and whether published figures are of its frames."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    name: str
    """as a reader sees it"""
    terms: str
    """of the data, and so of what is passed on of them: one or two sentences"""
    is_nyu: bool
    """Published figures are of its test frames; those of the raw sequences are others."""


_NYU_TERMS = (
    "NYU Depth v2 (Silberman et al., ECCV 2012) is research data under its own terms and no part of this project; "
    "whoever passes on these weights or pictures should know them."
)
KINDS = {
    "rooms": Kind(
        "rendered rooms", "Rendered by this project's own code, so nobody else's terms apply.", is_nyu=False
    ),
    "nyu_v2": Kind("NYU Depth v2", _NYU_TERMS, is_nyu=True),
    "file": Kind("a labelled file in NYU Depth v2's layout", _NYU_TERMS, is_nyu=True),
    "folder": Kind(
        "a folder of one's own images",
        "The terms of these images are known to whoever made the folder; the pipeline cannot tell them.",
        is_nyu=False,
    ),
    "nyu_raw": Kind("raw sequences of NYU Depth v2", _NYU_TERMS, is_nyu=False),
}
"""By `fetch.source`."""


def kind_of(source: str) -> Kind:
    """Also of a source that other code has written, of which only its name is known."""
    return KINDS.get(source) or Kind(source, f"No terms are known of data from {source}.", is_nyu=False)
