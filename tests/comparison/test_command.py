"""`depth compare` on DVC experiments, git revisions and MLflow runs of a real repository."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.reporting.toy import Page
from tests.tracking.toy import Toy

Compare = Callable[..., str]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Toy:
    """Results with a weight of 0.5 are committed; those of the experiment `heavy`, and of its run, have 0.9."""
    toy = Toy(tmp_path_factory.mktemp("compare") / "toy")
    shutil.copy(empty_store, toy.root / "mlflow.db")
    toy.run("git", "tag", "before")
    toy.run("dvc", "repro")
    toy.run("git", "add", ".")
    toy.run("git", "commit", "--quiet", "--message", "results")
    toy.experiment("--name", "heavy", "-S", "loss.ssim_weight=0.9")
    toy.run("git", "stash", "--quiet")
    return toy


@pytest.fixture
def compare(toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Runs the command in the repository and gives what it printed; of one that fails the line of its error."""
    monkeypatch.chdir(toy.root)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)

    def run(*names: str, fails: bool = False) -> str:
        if fails:
            with pytest.raises(SystemExit) as ended:
                main(["compare", *names])
            assert ended.value.code == 1
            error = capsys.readouterr().err
            assert error.startswith("error: depth compare: ") and error.count("\n") == 1
            return error
        main(["compare", *names])
        return capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")

    return run


def test_an_experiment_is_held_against_the_commit_that_it_starts_from(toy: Toy, compare: Compare) -> None:
    told = compare("HEAD", "heavy")
    assert told.startswith(
        "HEAD stays the best: heavy has an RMSE 0.400 m (27 %) higher, beyond the confidence interval.\n"
        "RMSE of heavy minus that of HEAD: +0.400 to +0.400 m"
    )
    assert f"wrote {toy.root / 'reports/compare.html'}" in told
    text = (toy.root / "reports/compare.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [row[1:] for row in page.cells("loss.ssim_weight")] == [["0.5", "0.9"]]
    assert "Frame 2, office_0" in text, "the frame that both kept is shown, from DVC's cache"
    assert [image["alt"] for image in page.images if "predicted" in image["alt"]][:2] == [
        "Depth predicted by HEAD of test frame 2",
        "Depth predicted by heavy of test frame 2",
    ]
    head, rev = toy.run("git", "rev-parse", "--short=7", "HEAD").strip(), "DVC experiment, commit "
    assert f"git commit {head}" in text and rev in text


def test_the_run_of_an_experiment_gives_the_same_page_as_the_experiment(
    toy: Toy, compare: Compare, tmp_path: Path
) -> None:
    run_id = toy.runs()["heavy"].info.run_id
    told = compare("heavy", run_id, "--out", str(tmp_path / "out" / "page.html"))
    assert told.startswith(f"heavy ({run_id[:7]}) and heavy score the same: RMSE 1.900 m.")
    text = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert f"MLflow run {run_id[:7]}" in text
    assert f"Depth predicted by heavy ({run_id[:7]}) of test frame 2" in text
    assert "compared_validation-" in text, "it holds the history, too"
    assert "parameters" not in {attributes.get("id") for _, attributes in Page(text).elements}
    assert "dvc metrics diff" not in text, "DVC knows no run"


def test_the_working_copy_is_compared_as_it_is(toy: Toy, compare: Compare) -> None:
    path = toy.root / "reports/evaluate/metrics.json"
    before = path.read_text(encoding="utf-8")
    metrics = json.loads(before)
    metrics["full"]["rmse"] = 1.25
    path.write_text(json.dumps(metrics), encoding="utf-8")
    try:
        assert "1.250" in compare("heavy", "workspace")
        metrics["frames_sha256"], metrics["source"] = "ab", "folder"
        path.write_text(json.dumps(metrics), encoding="utf-8")
        assert compare("heavy", "workspace").startswith("No verdict: workspace was scored on another data set.")
        path.write_text("{", encoding="utf-8")
        assert "is damaged" in compare("heavy", "workspace", fails=True)
    finally:
        path.write_text(before, encoding="utf-8")


def test_a_name_that_nothing_has_is_told_with_the_nearest_in_one_line(toy: Toy, compare: Compare) -> None:
    (toy.root / "reports/compare.html").unlink(missing_ok=True)
    assert "heavi is no DVC experiment, git revision or MLflow run; is it heavy?" in compare(
        "HEAD", "heavi", fails=True
    )
    assert "`dvc exp show` lists" in compare("HEAD", "~~~", fails=True)
    assert "before (git commit" in (error := compare("heavy", "before", fails=True))
    assert "has no reports/evaluate/metrics.json" in error
    assert "name two different experiments" in compare("heavy", fails=True)
    assert "name two different experiments" in compare("heavy", "heavy", fails=True)
    assert "at most 6" in compare(*"abcdefg", fails=True)
    assert not (toy.root / "reports/compare.html").exists()
