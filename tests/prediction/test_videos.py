"""Videos beside their depth, frame by frame and at their own pace."""

from __future__ import annotations

import json
import shutil
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import DepthEstimator
from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.prediction import videos
from pipeline.prediction.inputs import VIDEOS
from pipeline.prediction.videos import opened_video, predict_video

TIMES_MS = (0, 100, 200, 300, 700)
"""Not evenly spaced, as of a phone that saves light."""
SIZE = (48, 80)
INSTALL = "the package av is not installed (requirements-video.lock)"


@pytest.fixture
def av() -> Any:
    return pytest.importorskip("av", reason=INSTALL)


@pytest.fixture
def work(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    shutil.copy(checkpoint, "models/best.safetensors")
    return tmp_path


def pictures() -> list[np.ndarray]:
    """A bright square that moves to the right over a dark ground."""
    frames = []
    for number in range(len(TIMES_MS)):
        frame = np.full((*SIZE, 3), 40, np.uint8)
        frame[8:32, 4 + 12 * number : 20 + 12 * number] = (230, 180, 90)
        frames.append(frame)
    return frames


def write_video(av: Any, path: str) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv444p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time_ms, rgb_u8 in zip(TIMES_MS, pictures(), strict=True):
            frame = av.VideoFrame.from_ndarray(rgb_u8, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Give an mp4 the display matrix (a b; c d) of its track header, as a phone does that lies on its side."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # after version, flags, times, id, duration, layer, group, volume
    for position, value in zip((0, 1, 3, 4), matrix, strict=True):
        start = at + 4 * position
        content[start : start + 4] = (value * 2**16).to_bytes(4, "big", signed=True)
    path.write_bytes(content)


def test_a_video_becomes_one_of_its_frames_beside_their_depth_at_the_same_times(work: Path, av: Any) -> None:
    write_video(av, "walk.mp4")
    main(["predict", "walk.mp4", "--out", "depth", "--frames", "--batch-size", "2"])
    with av.open("depth/walk-side-by-side.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        frames = list(container.decode(stream))
        times_ms = [round(1000 * float(frame.pts * frame.time_base)) for frame in frames]
        assert times_ms == list(TIMES_MS)
        for frame, rgb_u8 in zip(frames, pictures(), strict=True):
            left = frame.to_ndarray(format="rgb24")[: SIZE[0], : SIZE[1]].astype(int)
            assert np.abs(left - rgb_u8).mean() < 12
    estimator = DepthEstimator(device="cpu")
    maps = sorted(Path("depth/walk-depth-frames").iterdir())
    assert [path.name for path in maps] == [f"{number:06d}.png" for number in range(1, 6)]
    for path, rgb_u8 in zip(maps, pictures(), strict=True):
        depth_mm = np.array(Image.open(path))
        assert depth_mm.dtype == np.uint16
        np.testing.assert_allclose(depth_mm / 1000, estimator(rgb_u8), atol=0.1)
    facts = json.loads(Path("depth/walk-depth.json").read_text(encoding="utf-8"))
    assert (facts["frames"], facts["width"], facts["height"]) == (5, SIZE[1], SIZE[0])
    assert 0 < facts["depth"]["min"] <= facts["colours"]["near"] < facts["colours"]["far"] <= facts["depth"]["max"]
    assert sorted(path.name for path in Path("depth").iterdir()) == [
        "walk-depth-frames",
        "walk-depth.json",
        "walk-side-by-side.mp4",
    ]


@pytest.mark.parametrize(
    ("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)], ids=["90", "180", "270"]
)
def test_a_video_lying_on_its_side_is_put_upright(
    work: Path, av: Any, matrix: tuple[int, int, int, int], turns: int
) -> None:
    write_video(av, "phone.mp4")
    turn(Path("phone.mp4"), matrix)
    with opened_video(Path("phone.mp4")) as (frames, total):
        first = next(frames)
    assert total == len(TIMES_MS)
    assert np.abs(first.rgb_u8.astype(int) - np.rot90(pictures()[0], turns)).mean() < 6


def test_a_damaged_video_is_named_and_skipped_and_leaves_nothing(
    work: Path, av: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(av, "walk.mp4")
    Path("cut.mp4").write_bytes(Path("walk.mp4").read_bytes()[:-400])
    Path("text.avi").write_text("no video")
    with av.open("sound.mkv", "w") as container:
        container.add_stream("pcm_s16le", rate=8000)
        container.start_encoding()
    with pytest.raises(SystemExit) as ended:
        main(["predict", "cut.mp4", "text.avi", "sound.mkv", "walk.mp4", "--out", "depth", "--frames"])
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    for name in ("cut.mp4", "text.avi", "sound.mkv"):
        assert any(f"skipped: {name} cannot be read as a video" in line for line in lines)
    assert "3 of 4 could not be read: cut.mp4, text.avi, sound.mkv" in lines[-1]
    assert {path.name for path in Path("depth").iterdir()} == {
        "walk-depth-frames",
        "walk-depth.json",
        "walk-side-by-side.mp4",
    }


def test_frames_replace_those_of_an_earlier_call_but_never_another_file(
    work: Path, av: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(av, "walk.mp4")
    folder = Path("depth/walk-depth-frames")
    folder.mkdir(parents=True)
    (folder / "000009.png").touch()
    main(["predict", "walk.mp4", "--out", "depth", "--frames"])
    assert len(list(folder.iterdir())) == len(TIMES_MS)
    (folder / "notes.txt").write_text("mine")
    before = {path.name for path in Path("depth").iterdir()}
    with pytest.raises(SystemExit):
        main(["predict", "walk.mp4", "--out", "depth", "--frames"])
    assert "holds notes.txt, which is none; move it away" in capsys.readouterr().err.splitlines()[-1]
    assert (folder / "notes.txt").read_text() == "mine"
    assert {path.name for path in Path("depth").iterdir()} == before
    main(["predict", "walk.mp4", "--out", "depth"])  # without --frames nothing is in the way


@pytest.mark.parametrize("name", ["walk-depth-frames/000001.png", "walk-side-by-side.mp4"])
def test_a_result_never_replaces_what_is_to_be_predicted(
    work: Path, av: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = Path(name)
    given.parent.mkdir(exist_ok=True)
    write_video(av, "walk.mp4")
    given.write_bytes(b"mine")
    with pytest.raises(SystemExit):
        main(["predict", "walk.mp4", name, "--out", ".", "--frames"])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name}, which is to be predicted, would be replaced by a result of walk.mp4" in line
    assert given.read_bytes() == b"mine"
    assert not Path("walk-depth.json").exists()


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.ts\n#EXT-X-ENDLIST\n",
    ],
    ids=["ffconcat", "HLS"],
)
def test_a_list_of_other_files_is_no_video(work: Path, av: Any, content: str) -> None:
    write_video(av, "secret.mp4")
    write_video(av, "secret.ts")
    Path("list.mp4").write_text(content)
    if content.startswith("ff"):  # FFmpeg on its own does read the other file
        with av.open("list.mp4") as container:
            assert len(list(container.decode(video=0))) == len(TIMES_MS)
    with pytest.raises(PipelineError, match=r"list\.mp4 cannot be read as a video"), opened_video(Path("list.mp4")):
        pass


CODECS = {
    "avi": "mpeg4",
    "m4v": "libx264",
    "mkv": "libx264",
    "mov": "libx264",
    "mp4": "libx264",
    "mpeg": "mpeg2video",
    "mpg": "mpeg1video",
    "webm": "libvpx",
}


@pytest.mark.parametrize("kind", sorted(VIDEOS))
def test_videos_of_every_extension_that_folders_are_searched_for_are_read(work: Path, av: Any, kind: str) -> None:
    path = f"a:walk{kind}"  # a name that FFmpeg could take for an address
    with av.open(f"file:{path}", "w", format="mp4" if kind == ".m4v" else None) as container:
        stream = container.add_stream(CODECS[kind[1:]], rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for rgb_u8 in pictures():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb_u8, format="rgb24")))
        container.mux(stream.encode(None))
    with opened_video(Path(path)) as (frames, _):
        assert len(list(frames)) == len(TIMES_MS)


def test_a_video_of_too_many_pixels_is_refused(work: Path, av: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(av, "walk.mp4")
    monkeypatch.setattr(videos, "MAX_PIXELS", SIZE[0] * SIZE[1] - 1)
    with pytest.raises(PipelineError, match=r"walk\.mp4 has 80 x 48 pixels"), opened_video(Path("walk.mp4")):
        pass


def test_a_batch_waits_in_less_memory_than_its_frames(work: Path, av: Any) -> None:
    height, width = 960, 1280
    with av.open("large.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for grey in range(12):
            rgb_u8 = np.full((height, width, 3), 20 * grey, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb_u8, format="rgb24")))
        container.mux(stream.encode(None))
    estimator = DepthEstimator(device="cpu", batch_size=12)
    tracemalloc.start()
    try:
        predict_video(estimator, Path("large.mp4"), Path("depth/large"), None, False, {})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 6 * height * width * 3  # of 12 frames


def test_without_the_extra_one_line_says_what_to_install(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    Path("walk.mp4").touch()
    with pytest.raises(SystemExit):
        main(["predict", "walk.mp4", "--out", "depth"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "videos need PyAV, which is not installed: pip install --no-deps -r requirements-video.lock" in line
    assert not Path("depth").exists()
