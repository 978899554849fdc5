"""Two ranks of which the second meets an error, of the kind that is named, while the first waits for it."""

from __future__ import annotations

import sys

import torch.distributed as dist

from pipeline.errors import PipelineError, reported_to_user
from pipeline.training.distributed import joined

ERRORS = {"expected": PipelineError("out of memory; lower train.batch_size"), "defect": ValueError("a defect")}

with reported_to_user("train"), joined() as ranks:
    if ranks.rank == 1:
        raise ERRORS[sys.argv[1]]
    dist.barrier()
