"""The command `depth demo`: a page on this machine for one photo at a time. It needs Gradio, the extra `demo`."""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from pipeline.errors import PipelineError, Terminated
from pipeline.prediction.command import add_device_argument, add_model_argument
from pipeline.ui import HOST, refuse_taken_port

DESCRIPTION = """\
Serve a web page on which to drop a photo, or to take one with the camera: it shows the depth in colours and metres,
and a cloud of points that can be turned. It asks nothing of the internet, keeps nothing, and ends with Ctrl-C.
"""
POINTS = 480 * 640
"""The most in the cloud that the browser draws, and in the pictures: 4.6 MB as PLY."""
LARGEST_FILE = "100mb"
BESIDE, ABOVE, AWAY = 70, 80, 1.6
"""Where the cloud is looked at from at first: degrees (90 and 90 are the camera's own place, from where no depth is
seen), and how far from its middle, in median depths."""
KEPT_S = 600
"""How long the files of a prediction are kept for their page; all go at the end."""
STYLE = """
.gradio-container {max-width: 1240px !important; margin: auto}
footer {display: none !important}
#facts {font-size: 1.05em}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    add_model_argument(parser)
    parser.add_argument(
        "--host",
        default=HOST,
        metavar="ADDRESS",
        help="address to listen on (default: %(default)s, which only this machine reaches; 0.0.0.0: whoever can)",
    )
    parser.add_argument("--port", type=int, default=7860, help="port (default: %(default)s)")
    add_device_argument(parser)
    parser.set_defaults(do=demo)


def demo(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or a polite kill."""
    refuse_taken_port(options.port, options.host)
    with TemporaryDirectory(prefix="depth-demo-") as folder:
        gradio = _import_gradio(folder)
        from pipeline.prediction.estimator import DepthEstimator

        page = _page(gradio, DepthEstimator(options.model, device=options.device), Path(folder))
        # Gradio asks itself whether it is there, through a proxy if the environment names one.
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = f"localhost,127.0.0.1,{options.host}"
        try:
            page.launch(
                server_name=options.host,
                server_port=options.port,
                share=False,
                quiet=True,
                show_error=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                max_file_size=LARGEST_FILE,
                css=STYLE,
            )
            print(f"the page is at http://{options.host}:{options.port} until Ctrl-C", flush=True)
            threading.Event().wait()
        except (KeyboardInterrupt, Terminated):
            return
        finally:
            page.close(verbose=False)


def _import_gradio(folder: str) -> Any:
    """Gradio, which keeps its files in `folder` and sends nobody statistics nor looks for a newer version."""
    # It reads them when it is imported.
    os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    try:
        import gradio
    except ImportError as error:
        raise PipelineError(
            "the page needs Gradio, which is not installed: pip install --no-deps -r requirements-demo.lock"
        ) from error
    return gradio


def _page(gr: Any, estimator: Any, folder: Path) -> Any:
    """Gradio's page; the files of each prediction are kept in `folder`."""
    from pipeline.prediction.cloud import FIELD_OF_VIEW

    facts = estimator.facts
    height, width = facts["input_size"]
    about = (
        f"{facts['architecture']}, {facts['parameters'] / 1e6:.2f} M parameters, sees {width} × {height} pixels, "
        f"trained on the {facts['trained_on']}"
    )

    def show(path: str | None, degrees: float) -> tuple[Any, ...]:
        if path is None:
            return None, None, "", gr.DownloadButton(interactive=False)
        try:
            shown = _predicted(estimator, Path(path), degrees, Path(mkdtemp(dir=folder)))
        except PipelineError as error:
            raise gr.Error(str(error).replace(path, Path(path).name), print_exception=False) from error
        cloud = gr.Model3D(shown[1], camera_position=(BESIDE, ABOVE, AWAY * shown[4]))
        return shown[0], cloud, shown[2], gr.DownloadButton(value=shown[3], interactive=True)

    with gr.Blocks(title="Depth from one photo", delete_cache=(KEPT_S, KEPT_S), analytics_enabled=False) as page:
        gr.Markdown(f"# Depth from one photo\n{about}")
        with gr.Row(equal_height=True):
            photo = gr.Image(
                label="Photo: drop, paste or take one",
                type="filepath",
                image_mode=None,
                sources=["upload", "webcam", "clipboard"],
                height=400,
                buttons=[],
            )
            photo.preprocess = _unopened(photo.preprocess)
            depth = gr.Image(
                label="Depth, near is bright", format="png", height=400, buttons=["fullscreen"], elem_id="depth"
            )
        with gr.Row(equal_height=True):
            text = gr.Markdown(elem_id="facts")
            field_of_view = gr.Slider(
                20, 120, round(FIELD_OF_VIEW), step=1, label="Field of view, longer side (°)", scale=1
            )
            file = gr.DownloadButton("Depth in millimetres, 16-bit PNG", interactive=False, scale=1)
        cloud = gr.Model3D(
            label="Points: drag to turn, wheel to come nearer",
            display_mode="point_cloud",
            clear_color=(0.07, 0.08, 0.1, 1.0),
            camera_position=(BESIDE, ABOVE, None),
            height=520,
            elem_id="cloud",
        )
        gr.on(
            [photo.input, field_of_view.release],
            show,
            [photo, field_of_view],
            [depth, cloud, text, file],
            api_visibility="private",
        )
    return page


def _unopened(preprocess: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """Gradio would open an upload, of any format and size, with Pillow itself, and tell where the file lies if that
    fails; so `read_photo` is the first that opens it."""

    def path_of(upload: Any) -> str | None:
        return preprocess(upload) if upload is None or upload.path is None else str(upload.path)

    return path_of


def _predicted(estimator: Any, path: Path, degrees: float, folder: Path) -> tuple[Any, str, str, str, float]:
    """Picture, cloud, sentence and depth map of a photo, the files in `folder`, and the median depth in metres."""
    import numpy as np
    from PIL import Image

    from pipeline.data.camera import Pinhole
    from pipeline.prediction.cloud import point_cloud, write_ply
    from pipeline.prediction.images import Photo, read_photo
    from pipeline.prediction.pictures import colour_depth, legend_picture
    from pipeline.prediction.results import depth_picture, range_of, shown_photo

    photo = read_photo(path)
    started = time.perf_counter()
    depth_m = estimator(photo)
    took_ms = 1000 * (time.perf_counter() - started)
    shown = shown_photo(photo, POINTS)
    size = (shown.height, shown.width)
    shown_m = estimator(Photo(shown, size))
    (near_m, far_m), median_m = range_of(depth_m), float(np.median(depth_m))
    camera = Pinhole.from_field_of_view(degrees, max(size), size)
    cloud = folder / f"{path.stem}-cloud.ply"
    write_ply(cloud, point_cloud(shown_m, camera), np.asarray(shown))
    png = folder / f"{path.stem}-depth.png"
    depth_picture(depth_m).save(png)
    legend = legend_picture(shown.height, near_m, far_m)
    picture = Image.new("RGB", (shown.width + 8 + legend.width, shown.height), "white")
    picture.paste(Image.fromarray(colour_depth(shown_m, near_m, far_m)))
    picture.paste(legend, (shown.width + 8, 0))
    sentence = (
        f"**{near_m:.2f} m** nearest · **{median_m:.2f} m** median · **{far_m:.2f} m** farthest  \n"
        f"{photo.size[1]} × {photo.size[0]} pixels in {took_ms:.0f} ms"
    )
    return picture, str(cloud), sentence, str(png), median_m
