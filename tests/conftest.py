from __future__ import annotations

from hypothesis import settings

# Time limits of single examples fail on a busy machine, and say nothing of the code.
settings.register_profile("pipeline", deadline=None)
settings.load_profile("pipeline")
