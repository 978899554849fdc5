"""The style that charts and page share."""

from __future__ import annotations

import matplotlib.colors
import numpy as np
import pytest

from pipeline.reporting import style


@pytest.mark.parametrize("theme", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_lettering_and_lines_stand_out_from_their_ground(theme: style.Theme) -> None:
    """WCAG 2.1 asks for a contrast of 4.5 for text and 3 for graphics."""

    def luminance(colour: str) -> float:
        channels = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(one: str, other: str) -> float:
        dark, light = sorted((luminance(one), luminance(other)))
        return (light + 0.05) / (dark + 0.05)

    for ground in (theme.page, theme.surface):
        assert (
            min(contrast(theme.ink, ground), contrast(theme.muted, ground), contrast(theme.accent, ground)) >= 4.5
        )
        assert contrast(theme.second, ground) >= 3
