from __future__ import annotations

import functools
import operator
import re
from pathlib import Path

import pytest
import yaml

from pipeline.errors import PipelineError
from pipeline.model.network import build_network, count_parameters
from pipeline.params import Params, load_params, parse_params

REPOSITORY = Path(__file__).resolve().parents[1]
LINES = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")


def load_edited(tmp_path: Path, pattern: str, replacement: str) -> Params:
    text, count = re.subn(pattern, replacement, LINES, count=1, flags=re.MULTILINE)
    assert count == 1
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_params(path)


def test_one_command_trains_by_the_original_recipe() -> None:
    lines = re.search(r"^original:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M)
    assert lines is not None
    content = yaml.safe_load(LINES)
    for key, value in re.findall(r"-S (\S+)=(\S+)", lines[1]):
        *sections, name = key.split(".")
        section = functools.reduce(operator.getitem, sections, content)
        assert name in section, key
        section[name] = yaml.safe_load(value)
    params = parse_params(content, "Makefile")
    assert params.fetch.source == "nyu_v2"
    assert (params.loss.error, params.loss.ssim_weight, params.loss.gradient_weight) == ("mse", 0.5, 0)
    assert (params.train.learning_rate, params.train.batch_size, params.train.schedule) == (1e-4, 16, "constant")
    # Plain Adam: no decay of weights, no average of them.
    assert (params.train.weight_decay, params.train.ema_decay, params.train.gradient_clip_norm) == (0, 0, 0)
    augment = params.augment
    assert (augment.at, augment.copies, augment.flip, augment.noise_std) == ("shards", 1, 0.5, 0.02)
    assert (augment.zoom, augment.colour) == (1, 0)
    assert count_parameters(build_network(**params.network.model_dump())) == pytest.approx(500_000, rel=0.01)


def test_the_committed_parameters_need_no_data_of_anyone() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert (params.preprocess.height, params.preprocess.width) == (120, 160)
    assert params.fetch.source == "rooms"


@pytest.mark.parametrize(
    ("pattern", "replacement", "expected"),
    [
        (r"ssim_weight: \S+", "ssim_wieght: 0.5", "loss.ssim_wieght is not a parameter; did you mean ssim_weight?"),
        (r"^  epochs:", "  epoch: 1\n  epochs:", "train.epoch is not a parameter; did you mean epochs?"),
        (r"^  epochs: \d+", "  epochs: 0", "train.epochs is 0; it should be greater than or equal to 1"),
        (r"^  epochs: \d+", "  epochs: 2.5", "train.epochs is 2.5; it should be a valid integer"),
        (r"^  epochs: \d+", "  epochs: true", "train.epochs is True; it should be a valid integer"),
        (r"ssim_weight: \S+", "ssim_weight: 1.5", "loss.ssim_weight is 1.5; it should be less than or equal to 1"),
        (r"ssim_weight: \S+", "ssim_weight: .nan", "loss.ssim_weight is nan"),
        (
            r"learning_rate: \S+",
            "learning_rate: 1-e3",
            "train.learning_rate is '1-e3'; it should be a valid number",
        ),
        (r"source: rooms", "source: romms", "fetch.source is 'romms'; it should be 'rooms', 'nyu_v2', 'file',"),
        (r"source: rooms", "source: file", "file.labeled must name the labelled .mat file"),
        (r"source: rooms", "source: folder", "folder.list must name a list of images"),
        (
            r"cluster: local",
            "cluster: locla",
            "preprocess.cluster: it is 'locla'; it should be local, the",
        ),
        (r"cluster: local", "cluster: 6379", "preprocess.cluster: it is 6379; it should be local, the HOST"),
        (r"source: rooms", "source: nyu_raw", "nyu_raw.directory must name the folder of the raw sequences"),
        (
            r"splits: null( +# path of its splits.mat.*\n    test_fraction)",
            r"splits: a.mat\1",
            "nyu_raw.splits is of use",
        ),
        (r"^seed: \d+", "seed: -1", "seed is -1; it should be greater than or equal to 0"),
        (r"^loss:.*\n(  .*\n)+", "loss:\n", "loss should be a section of keys, not None"),
        (r"^tracking:", "tracing:", "tracing is not a parameter; did you mean tracking?"),
        (r"^  batch_size: 16.*\n", "", "train.batch_size is missing"),
        (r"^loss:", "loss: [", "is not valid YAML"),
    ],
)
def test_a_slip_is_told_in_one_line_with_the_key_and_what_is_allowed(
    tmp_path: Path, pattern: str, replacement: str, expected: str
) -> None:
    with pytest.raises(PipelineError) as error:
        load_edited(tmp_path, pattern, replacement)
    assert expected in " ".join(str(error.value).split())


@pytest.mark.parametrize(("text", "value"), [("5e-05", 5e-5), ("1e-3", 1e-3), ("1.5E-3", 1.5e-3), ("1E+0", 1.0)])
def test_numbers_may_be_written_as_dvc_writes_them(tmp_path: Path, text: str, value: float) -> None:
    assert load_edited(tmp_path, r"learning_rate: \S+", f"learning_rate: {text}").train.learning_rate == value


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="run from the root of the repository"):
        load_params(tmp_path / "params.yaml")


def test_parameters_cannot_be_changed_after_reading() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.train.epochs = 1  # type: ignore[misc]


def test_every_key_of_the_file_has_a_comment() -> None:
    keys = [line for line in LINES.splitlines() if re.match(r"\s+[a-z_0-9]+:", line)]
    parents = {"rooms:", "nyu_v2:", "file:", "folder:", "nyu_raw:"}
    bare = [line for line in keys if "#" not in line and line.strip() not in parents]
    assert not bare


def test_the_file_holds_the_keys_of_the_model_in_its_order() -> None:
    content = yaml.safe_load(LINES)
    assert list(content) == list(Params.model_fields)
    for section, keys in content.items():
        if isinstance(keys, dict):
            assert list(keys) == list(Params.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]
