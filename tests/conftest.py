from __future__ import annotations

import signal

from hypothesis import settings

# Time limits of single examples fail on a busy machine, and say nothing of the code.
settings.register_profile("pipeline", deadline=None)
settings.load_profile("pipeline")

# A shell starts background jobs with Ctrl-C ignored, and their children inherit that; some tests send it to them.
signal.signal(signal.SIGINT, signal.default_int_handler)
