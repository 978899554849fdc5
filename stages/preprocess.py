"""Stage `preprocess`: frames of data/raw to resized, split and augmented tensor shards in data/shards."""

from __future__ import annotations

from pipeline.tracking import stage_run, start_sender

if __name__ == "__main__":
    start_sender()  # it imports MLflow while the imports below go on here

from pipeline import paths
from pipeline.data.augment import Augmentation
from pipeline.data.shards import write_shards
from pipeline.data.source import open_source
from pipeline.data.splits import TRAINED_ON, carve_validation, use_every_frame
from pipeline.errors import reported_to_user
from pipeline.params import load_params


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
        write_shards(
            source.frames,
            splits,
            paths.SHARDS,
            size=(settings.height, settings.width),
            border=settings.border,
            augmentation=Augmentation(augment.flip, augment.noise_std) if in_shards else None,
            copies=augment.copies,
            seed=params.seed,
            facts={"source": source.kind, "split": settings.split, "trained_on": TRAINED_ON[settings.split]},
        )


if __name__ == "__main__":
    with reported_to_user("preprocess"):
        main()
