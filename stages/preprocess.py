"""Stage `preprocess`: frames of data/raw to resized, split and augmented tensor shards in data/shards."""

from __future__ import annotations

from pipeline.tracking import stage_run, start_sender

if __name__ == "__main__":
    start_sender()  # it imports MLflow while the imports below go on here

from pathlib import Path

from pipeline import paths
from pipeline.data.augment import Augmentation
from pipeline.data.frames import RandomAccess
from pipeline.data.shard_jobs import Recipe, write_shards_by_jobs
from pipeline.data.shards import write_shards
from pipeline.data.source import open_source
from pipeline.data.splits import TRAINED_ON, carve_validation, draw_training, use_every_frame
from pipeline.data.workers import workers_at
from pipeline.errors import PipelineError, reported_to_user
from pipeline.files import sha256_of
from pipeline.params import Params, load_params
from pipeline.stage_key import stage_key


def main() -> None:
    params = load_params()
    settings, augment = params.preprocess, params.augment
    in_shards = augment.at == "shards" and augment.copies > 0
    with (
        stage_run("preprocess", params.model_dump()),
        open_source(paths.RAW, raw_depth=False, stored_order=True) as source,
    ):
        if settings.split == "all":
            splits = use_every_frame(source.splits)
        else:
            splits = carve_validation(source.splits, source.frames.scenes, settings.val_fraction)
        splits = draw_training(splits, settings.train_frames, params.seed)
        recipe = Recipe(
            size=(settings.height, settings.width),
            border=settings.border,
            augmentation=Augmentation.of(augment.model_dump()) if in_shards else None,
            copies=augment.copies,
            seed=params.seed,
        )
        facts = {"source": source.kind, "split": settings.split, "trained_on": TRAINED_ON[settings.split]}
        if isinstance(source.frames, RandomAccess):
            write_shards_by_jobs(
                source.frames,
                splits,
                paths.SHARDS,
                recipe,
                work=work_folder(params),
                workers=workers_at(settings.cluster),
                facts=facts,
            )
        elif settings.cluster == "local":
            write_shards(source.frames, splits, paths.SHARDS, **vars(recipe), facts=facts)
        else:
            raise PipelineError(
                f"preprocess.cluster is {settings.cluster}, but {source.kind} is one file that is read in order; "
                "set it to local"
            )


def work_folder(params: Params) -> Path:
    """Where the shards of this data set are made."""
    raw = {path.name: sha256_of(path) for path in sorted(paths.RAW.iterdir())}
    return paths.repository_root() / paths.STATE / "preprocess" / stage_key("preprocess", params, data=raw)


if __name__ == "__main__":
    with reported_to_user("preprocess"):
        main()
