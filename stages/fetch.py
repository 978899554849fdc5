"""Stage `fetch`: RGB-D frames and their splits to data/raw, in the official layout of NYU Depth v2."""

from __future__ import annotations

from pipeline.tracking import stage_run, start_sender

if __name__ == "__main__":
    start_sender()  # it imports MLflow while the imports below go on here

import sys
from pathlib import Path

from pipeline import paths
from pipeline.data.download import NYU_LABELED, NYU_SPLITS, download
from pipeline.data.lists import write_list
from pipeline.data.nyu import NyuFile, read_splits
from pipeline.data.raw_sequences import write_pairs
from pipeline.data.rooms import render_rooms
from pipeline.data.source import describe_source
from pipeline.data.splits import location_of
from pipeline.errors import PipelineError, reported_to_user
from pipeline.files import link_or_copy
from pipeline.params import Fetch, load_params


def main() -> None:
    params = load_params()
    fetch = params.fetch
    with stage_run("fetch", params.model_dump()):
        paths.RAW.mkdir(parents=True, exist_ok=True)
        FETCHERS[fetch.source](fetch)
        describe_source(paths.RAW_SOURCE, fetch.source)


def fetch_rooms(fetch: Fetch) -> None:
    render_rooms(paths.RAW_MAT, paths.RAW_SPLITS, **fetch.rooms.model_dump())


def fetch_nyu_v2(fetch: Fetch) -> None:
    # The partial file lies outside data/raw: DVC empties that before the stage runs again.
    partial = paths.repository_root() / paths.STATE / "download"
    download(NYU_SPLITS.at(fetch.nyu_v2.splits_urls), paths.RAW_SPLITS, partial)
    download(NYU_LABELED.at(fetch.nyu_v2.labeled_urls), paths.RAW_MAT, partial)


def fetch_file(fetch: Fetch) -> None:
    labeled, splits = own_files("file", str(fetch.file.labeled), fetch.file.splits)
    with NyuFile(labeled) as file:
        read_splits(splits, len(file), file.scenes)
    link_or_copy(labeled, paths.RAW_MAT)
    link_or_copy(splits, paths.RAW_SPLITS)


def own_files(section: str, labeled_text: str, splits_text: str | None) -> tuple[Path, Path]:
    """The labelled file and its splits, which must exist; a section of `fetch` names them."""
    labeled = own_path(labeled_text)
    splits = own_path(splits_text) if splits_text else labeled.with_name("splits.mat")
    for key, path in (("labeled", labeled), ("splits", splits)):
        if not path.is_file():
            raise PipelineError(f"fetch.{section}.{key}: {path} does not exist")
    return labeled, splits


def fetch_folder(fetch: Fetch) -> None:
    folder = fetch.folder
    write_list(
        own_path(str(folder.list)),
        paths.RAW_FOLDER_LIST,
        problems=paths.repository_root() / paths.STATE / "fetch" / "problems.csv",
        test_list=own_path(folder.test_list) if folder.test_list else None,
        root=own_path(folder.root) if folder.root else None,
        depth_scale=folder.depth_scale,
    )


def fetch_nyu_raw(fetch: Fetch) -> None:
    raw = fetch.nyu_raw
    test = test_locations(*own_files("nyu_raw", raw.labeled, raw.splits)) if raw.labeled else raw.test_fraction
    listed = write_pairs(
        own_path(str(raw.directory)), paths.RAW_PAIRS, every=raw.every, max_gap_s=raw.max_gap_s, test=test
    )
    print(f"fetch: {listed.told()}", file=sys.stderr)


def test_locations(labeled: Path, splits: Path) -> set[str]:
    """The rooms of a labelled file's test frames, which no sequence may train on."""
    with NyuFile(labeled) as file:
        return {location_of(file.scenes[index]) for index in read_splits(splits, len(file))["test"]}


def own_path(text: str) -> Path:
    """A path that the user gave. A relative one counts from the repository's root."""
    return paths.repository_root() / Path(text).expanduser()


FETCHERS = {
    "rooms": fetch_rooms,
    "nyu_v2": fetch_nyu_v2,
    "file": fetch_file,
    "folder": fetch_folder,
    "nyu_raw": fetch_nyu_raw,
}

if __name__ == "__main__":
    with reported_to_user("fetch"):
        main()
