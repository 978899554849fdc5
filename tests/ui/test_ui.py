"""`depth ui` as a person meets it: in the terminal and, with Chromium, in the browser."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from PIL import Image

from pipeline.cli import main
from pipeline.tracking import stage_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WEIGHTS = (0.1, 0.5, 0.9)
SWEPT = (0.1, 0.9)
"""Those whose runs belong to one sweep."""
STEPS = (10, 20, 30)
BRIGHT = {10: 60, 20: 140, 30: 220}
"""Grey of the picture that is logged at each step."""
WAIT_MS = 30_000


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's root whose store has a finished run for each weight."""
    root = tmp_path_factory.mktemp("repository")
    (root / "reports").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("DVC_ROOT", str(root))
        patch.chdir(root)
        for weight in WEIGHTS:
            patch.setenv("DVC_EXP_NAME", f"ssim-{weight}")
            _make_run(weight)
    return root


def _make_run(weight: float) -> None:
    group = "weights" if weight in SWEPT else None
    params = {"loss": {"ssim_weight": weight}, "tracking": {"experiment": "depth", "group": group}}
    Path("params.yaml").write_text(f"loss: {{ssim_weight: {weight}}}\n", encoding="utf-8")
    Path("reports/report.html").write_text(f"<h1>Report of weight {weight}</h1>", encoding="utf-8")
    with stage_run("report", params) as run:
        for step in STEPS:
            mse, ssim = 10 / step, 2 / step
            total = (1 - weight) * mse + weight * ssim
            run.log_metrics({"train/loss/total": total, "train/loss/mse": mse, "train/loss/ssim": ssim}, step)
            run.log_metrics({"val/rmse": weight + 1 / step}, step)
            png = io.BytesIO()
            Image.new("L", (64, 48), BRIGHT[step]).convert("RGB").save(png, "PNG")
            run.log_figure("predictions", png.getvalue(), step)
        run.log_metrics({"test/full/rmse": 1 + weight, "test/full/delta1": 0.9 - weight / 2})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Ui:
    """`depth ui`, started as from a terminal: in a process group that Ctrl-C goes to."""

    def __init__(self, root: Path) -> None:
        self.port = free_port()
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))
        } | {"DVC_ROOT": str(root)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "ui", "--port", str(self.port)],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout

    @functools.cached_property
    def address(self) -> str:
        """As it says it, once it answers."""
        said = []
        for line in self.output:
            said.append(line)
            if found := re.search(r"is at (\S+) until Ctrl-C", line):
                return found[1]
        pytest.fail("".join(said))

    def send(self, number: signal.Signals) -> list[psutil.Process]:
        """Send a signal, wait for the end; what is left of the processes that there were."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        assert children
        os.killpg(self.process.pid, number)
        assert self.process.wait(30) == 0
        return [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def close(self) -> None:
        """End it also where a test failed half-way."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        self.output.close()


@pytest.fixture(scope="module")
def ui(repository: Path) -> Iterator[Ui]:
    """To start takes seconds: the browser and Ctrl-C, in this order, share one."""
    ui = Ui(repository)
    yield ui
    ui.close()


def test_a_polite_kill_while_it_starts_leaves_nothing_behind(repository: Path) -> None:
    with contextlib.closing(Ui(repository)) as ui:
        assert ui.output.readline().startswith("starting MLflow's UI of sqlite:///")
        parent = psutil.Process(ui.process.pid)
        while not parent.children():
            assert ui.process.poll() is None
        assert ui.send(signal.SIGTERM) == []


def test_a_taken_port_is_one_line_before_anything_starts(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(repository))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit):
            main(["ui", "--port", str(port)])
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        f"error: depth ui: port {port} cannot be used (Address already in use); choose another with --port"
    ]


def test_the_ui_of_a_server_is_the_servers_own_and_its_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.com")
    main(["ui"])
    output = capsys.readouterr().out
    assert "https://me:***@mlflow.example.com" in output
    assert "secret" not in output


def without_assistant(page: Any) -> None:
    """MLflow's assistant otherwise takes a quarter of the page on the first visit."""
    page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian's package: chromium)")
def test_a_browser_finds_opens_and_compares_the_runs(repository: Path, ui: Ui, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    api.expect.set_options(timeout=WAIT_MS)
    elsewhere: list[str] = []
    with api.sync_playwright() as playwright:
        # Chromium's sandbox does not start for root, which is who CI is.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.getuid() != 0)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda sent: None if _is_local(sent.url) else elsewhere.append(sent.url))
        without_assistant(page)

        def seen(name: str) -> None:
            page.screenshot(path=tmp_path / f"{name}.png")

        def link(weight: float):  # type: ignore[no-untyped-def]
            return page.get_by_role("link", name=f"ssim-{weight}", exact=True)

        page.goto(ui.address)
        runs = page.url
        for weight in WEIGHTS:
            api.expect(link(weight)).to_be_visible()
        seen("runs")

        link(0.5).click()
        page.get_by_role("tab", name="Model metrics").click()
        page.get_by_placeholder("Search metric charts").fill("train/loss")
        for component in ("mse", "ssim", "total"):
            card = page.get_by_test_id("experiment-view-compare-runs-card").filter(
                has=page.get_by_role("heading", name=component, exact=True)
            )
            api.expect(card.get_by_text(f"ssim-0.5 (train/loss/{component})")).to_be_visible()
            api.expect(card.locator(".scatterlayer .js-line").first).to_be_visible()
        seen("loss-components")

        page.get_by_placeholder("Search metric charts").fill("predictions")
        api.expect(page.get_by_role("heading", name="predictions", exact=True)).to_be_visible()
        slider = page.get_by_role("slider")
        slider.press("ArrowRight")  # it starts at step 0, from where the next picture is that of the first step
        api.expect(slider).to_have_attribute("aria-valuenow", str(STEPS[0]))
        picture = page.locator(f"img[src*='predictions%2Bstep%2B{STEPS[0]}%2B']")
        picture.scroll_into_view_if_needed()
        api.expect(picture).to_be_visible()
        assert picture.evaluate("shown => shown.decode().then(() => shown.naturalWidth)") > 0
        seen("predictions")

        page.get_by_role("tab", name="Artifacts").click()
        page.get_by_text("report.html").click()
        report = page.frame_locator("iframe")
        api.expect(report.get_by_role("heading", name="Report of weight 0.5")).to_be_visible()
        seen("report")

        page.goto(runs)
        for weight in SWEPT:
            page.get_by_role("row").filter(has=link(weight)).get_by_role("checkbox").first.check()
        page.get_by_role("button", name="Compare").click()
        api.expect(page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment")).to_be_visible()
        api.expect(page.get_by_role("tab", name="Parallel Coordinates Plot")).to_be_visible()
        axes = page.locator(".parcoords .axis-title")
        api.expect(axes.filter(has_text="loss.ssim_weight")).to_be_visible()
        seen("compare")

        page.get_by_role("tab", name="Contour Plot").click()
        contour = {"X": "loss.ssim_weight", "Y": "test/full/rmse", "Z": "test/full/delta1"}
        for axis, name in contour.items():
            page.get_by_label(f"{axis}-axis:").click()
            page.get_by_role("option", name=name, exact=True).click()
        # The third has no title in the plot.
        api.expect(page.get_by_label("Z-axis:")).to_have_text(contour["Z"])
        for title, axis in ((".xtitle", "X"), (".ytitle", "Y")):
            api.expect(page.locator(title)).to_have_text(contour[axis])
        api.expect(page.locator(".contourlayer .contourlevel").first).to_be_attached()
        seen("contour")

        page.goto(runs)
        page.get_by_role("button", name="Group by").click()
        page.get_by_placeholder("Search", exact=True).fill("group")
        page.get_by_role("menuitemcheckbox", name="group", exact=True).click()
        page.keyboard.press("Escape")
        group = page.get_by_role("row").filter(has_text="Group: weights")
        api.expect(group.get_by_role("status")).to_have_text(str(len(SWEPT)))
        group.locator("[role=button]").first.click()  # folds the runs of the group away
        for weight in WEIGHTS:
            api.expect(link(weight)).to_be_visible(visible=weight not in SWEPT)
        seen("group")
        browser.close()
    assert elsewhere == []
    assert len(list(tmp_path.glob("*.png"))) == 7


def test_the_server_is_one_worker_without_the_processes_of_jobs(ui: Ui) -> None:
    assert requests.get(ui.address, timeout=10).ok
    server, worker = psutil.Process(ui.process.pid).children(recursive=True)
    assert server.cmdline()[1:4] == ["-m", "mlflow", "server"]
    assert worker.ppid() == server.pid
    assert "uvicorn" in worker.cmdline()
    assert worker.environ()["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_the_address_is_said_when_it_answers_and_ctrl_c_leaves_nothing_behind(ui: Ui) -> None:
    address = ui.address
    assert address.startswith(f"http://127.0.0.1:{ui.port}/")
    assert requests.get(address, timeout=10).ok
    assert ui.send(signal.SIGINT) == []
    assert ui.output.read() == ""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", ui.port))


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))
