"""What a study's file may say, and how it is told that it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.studies.declaration import overridden, read_studies, read_study, refuse_wrong_parameters
from tests.studies.toy import PARAMS, WEIGHTS

DEFAULTS: dict[str, Any] = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
STUDIES = PARAMS.parent / "studies"


def refusal(tmp_path: Path, old: str, new: str, name: str = "weights.yaml") -> str:
    path = tmp_path / name
    assert WEIGHTS.count(old) >= 1
    path.write_text(WEIGHTS.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(PipelineError) as refused:
        refuse_wrong_parameters(read_study(path), {}, DEFAULTS)
    line = str(refused.value)
    assert line.startswith(str(path)) or line.startswith(f"studies/{name}: ")
    return line


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title:", "titel:", "titel is not a key; did you mean title?"),
        ("idea:", "idae:", "variants.0.idae is not a key; did you mean idea?"),
        ("plot: {x:", "plot: {y: 1, x:", "plot.y is not a key; allowed here: x, log"),
        ("question: Which weight?\n", "", "question is missing"),
        ("seeds: [7]", "seeds: []", "seeds: list should have at least 1 item"),
        ("seeds: [7]", "seeds: [0.5]", "seeds.0 is 0.5; it should be a valid integer"),
        (
            "against: heavy",
            "against: haevy",
            "against is 'haevy'; it should be the name of a variant: light, heavy",
        ),
        ("name: light", "name: heavy", "two variants are called heavy"),
        ("name: light", "name: a/b", "variants.0.name is 'a/b'; string should match pattern"),
        ("train.epochs: 3", "seed: 3", "common.seed cannot be set here: `seeds` lists the seeds"),
        ("train.epochs: 3", "tracking.group: x", "common.tracking.group cannot be set here: the study's name"),
        (
            "x: loss.ssim_weight",
            "x: network.width",
            "plot.x is 'network.width', of which variant light sets no number",
        ),
        ("title: Weights", "title: [", "is not valid YAML"),
        ("title: Weights", "name: x\ntitle: Weights", "the file's own name is that of the study"),
        ("train.epochs", "train.epoch", "common: train.epoch is not a parameter of params.yaml; did you mean"),
        (
            "{loss.ssim_weight: 0.25}",
            "{loss.ssim_weight: 0.25, loss.x: 1}",
            "variant light: overrides: loss.x is not",
        ),
        ("0.25", "2.5", "variant light: loss.ssim_weight is 2.5; it should be less than or equal to 1"),
        ("fetch.source: nyu_v2", "fetch.source: file", "fetch: source is file, so file.labeled must name"),
    ],
)
def test_a_wrong_declaration_is_told_by_file_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert said in refusal(tmp_path, old, new)


def test_a_file_that_is_no_study_is_refused(tmp_path: Path) -> None:
    assert "should hold the keys of a study" in refusal(tmp_path, WEIGHTS, "- 1")
    assert "call it NAME.yaml" in refusal(tmp_path, "title", "title", "Two-Words.yaml")
    with pytest.raises(PipelineError, match="does not exist"):
        read_study(tmp_path / "absent.yaml")


def test_a_variant_has_what_is_common_and_its_own(tmp_path: Path) -> None:
    (tmp_path / "two_words.yaml").write_text(WEIGHTS, encoding="utf-8")
    study = read_study(tmp_path / "two_words.yaml")
    assert study.name == "two-words"
    light, heavy = (study.overrides_of(variant) for variant in study.variants)
    assert light == {"fetch.source": "nyu_v2", "train.epochs": 3, "loss.ssim_weight": 0.25}
    assert heavy == light | {"loss.ssim_weight": 0.75}
    assert overridden(DEFAULTS, light)["train"] == DEFAULTS["train"] | {"epochs": 3}
    assert DEFAULTS["train"]["epochs"] != 3


def test_the_studies_of_this_repository_name_real_parameters() -> None:
    studies = read_studies(STUDIES)
    assert studies
    for study in studies:
        refuse_wrong_parameters(study, {}, DEFAULTS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the files of studies, such as studies/*.yaml"),
        (["studies/weights.yaml", "--render"], "takes no files"),
        (["studies/weights.yaml", "--jobs", "0"], "--jobs must be 1 or more"),
        (["elsewhere.yaml"], "elsewhere.yaml does not lie in studies/"),
        (["studies/weights.yaml", "-S", "seed"], "-S seed: write KEY=VALUE"),
        (["studies/weights.yaml", "-S", "train.epochs=1"], "a recipe stands in its study's file"),
        (["studies/weights.yaml", "-S", "fetch.sorce=file"], "fetch.sorce is not a parameter of params.yaml"),
        (
            ["studies/weights.yaml", "-S", "fetch.source=file"],
            "variant light: fetch: source is file, so file.labeled",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_queued(
    study_repository: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["study", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: depth study: ")
    assert said in line


def test_parameters_that_no_commit_tells_are_refused(
    study_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (study_repository / "params.yaml").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    with pytest.raises(SystemExit):
        main(["study", "studies/weights.yaml"])
    assert "params.yaml has changes that are not committed" in capsys.readouterr().err
