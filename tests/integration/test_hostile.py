"""Files made to harm are refused in a sentence, within a stated time and memory; names never reach a shell."""

import ast
import re
import resource
import struct
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import nbformat
import numpy as np
import pytest

from avslib.audio import load_clip, load_wav
from avslib.core.errors import AvsError
from avslib.video import reader as video
from tests.helpers.hostile_files import HOSTILE

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 5  # of one core, for any file that is refused
MEMORY = 2 * 2**30  # address space beyond what is there before

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of memory and pipes are those of POSIX")


@contextmanager
def memory_limit():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refuse(name, folder):
    """Seconds that the refusal takes; AssertionError when it is none, or none in one sentence."""
    case = HOSTILE[name]
    path = folder / case.name
    folder.mkdir()
    if callable(case.content):
        case.content(path)
    else:
        path.write_bytes(case.content)
    before, start = sorted(folder.parent.rglob("*")), time.process_time()
    with memory_limit(), warnings.catch_warnings(), pytest.raises(AvsError) as raised:
        warnings.simplefilter("ignore")
        case.reader(path)
    seconds, sentence = time.process_time() - start, str(raised.value)
    assert re.search(case.words, sentence), sentence
    assert sentence.isprintable() and len(sentence) < 1500 and raised.type is not AvsError, sentence
    assert sorted(folder.parent.rglob("*")) == before, "a file was written"
    assert seconds < SECONDS
    return seconds


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused(name, tmp_path):
    refuse(name, tmp_path / "a")


def test_count_of_hostile_files(tmp_path, reliability_record, request):
    """All of them once more, for the record."""
    if not request.config.getoption("--record"):
        pytest.skip("counts for the record (--record)")
    seconds = [refuse(name, tmp_path / str(k)) for k, name in enumerate(HOSTILE)]
    by_reader = {}
    for name in HOSTILE:
        by_reader[name.split()[0]] = by_reader.get(name.split()[0], 0) + 1
    numbers = {"hostile_files": len(HOSTILE), "refused": len(seconds), "slowest_seconds": round(max(seconds), 2)}
    reliability_record("hostile", **numbers, by_kind=by_reader)


def test_time_stamps_that_jump_end_the_video_where_they_do(tmp_path):
    path = tmp_path / "jump.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for at in (0, 25, 50, 25 * 40_000, 25 * 40_001):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8), format="rgb24")
            frame.pts = at
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    moments = video.read_video(path, sound=False)
    with pytest.raises(video.BrokenOff, match="time stamps jump") as raised:
        while next(moments).index < 100:
            pass
    assert 1 < raised.value.at < 4 < raised.value.declared


def test_a_frame_stands_ten_minutes_at_most(tmp_path):
    path, steps = tmp_path / "slow.y4m", 0
    path.write_bytes(b"YUV4MPEG2 W32 H32 F1:80000 Ip A1:1 C420jpeg\nFRAME\n" + bytes(1536))
    with suppress(video.BrokenOff):
        for _ in video.read_video(path, sound=False):
            steps += 1
    assert 1 <= steps <= video.LONGEST_STILL


def test_a_clip_takes_the_beginning_of_a_long_sound(tmp_path):
    path, size = tmp_path / "long.wav", 2**31 - 100
    sound = struct.pack("<8sIHHIIHH", b"WAVEfmt ", 16, 1, 1, 16000, 32000, 2, 16)
    header = struct.pack("<4sI", b"RIFF", size + 36) + sound + struct.pack("<4sI", b"data", size)
    path.write_bytes(header)
    with open(path, "r+b") as stream:
        stream.truncate(len(header) + size)
    start = time.process_time()
    with memory_limit():
        assert load_clip(path).shape == (80_000,)
        with pytest.raises(AvsError, match="expected at most"):
            load_wav(path)
    assert time.process_time() - start < SECONDS


def calls(tree):
    """Name and call of every call by its dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def sources():
    files = sorted([*(ROOT / "avslib").rglob("*.py"), *(ROOT / "course").rglob("*.py")])
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in files]


UNSAFE = {
    "os.system",
    "os.popen",
    "os.execl",
    "os.execlp",
    "os.spawnl",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "eval",
    "exec",
    "compile",
    "__import__",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.load_all",
    "joblib.load",
    "shutil.unpack_archive",
    "dill.load",
    "cloudpickle.load",
}


def test_no_name_from_a_file_reaches_a_shell_and_no_file_is_run():
    """Programs are started by a list of words, never by a line for a shell; readers are the safe ones."""
    started = 0
    for path, tree in sources():
        for name, call in calls(tree):
            where, keywords = f"{path.name}:{call.lineno}: {name}", {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert name not in UNSAFE, where
            assert "shell" not in keywords, where
            assert not name.endswith((".extractall", ".extract")), where
            if name.startswith("subprocess.") and name.split(".")[1] in ("run", "Popen", "call", "check_output"):
                assert isinstance(call.args[0], ast.List), where
                started += 1
            if name == "torch.load":
                assert keywords.get("weights_only") == "True", where
            assert keywords.get("allow_pickle", "False") == "False", where
    assert started


NETWORK = re.compile(r"\b(urllib|requests|httpx|aiohttp|ftplib|socket|wget|curl|snapshot_download|hf_hub_download)\b")


def test_no_lesson_asks_the_network_but_to_install_on_colab():
    notebooks = sorted((ROOT / "notebooks").rglob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        for cell in nbformat.read(path, as_version=4).cells:
            tags = cell.metadata.get("tags", ())
            if cell.cell_type == "code" and "colab" not in tags and "raises-exception" not in tags:
                assert not NETWORK.search(cell.source), f"{path.name}: {cell.source}"
                assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), f"{path.name}: {cell.source}"


OFFLINE = """
import socket, sys

def refuse(*arguments, **options):
    raise OSError(f"the network was asked for: {arguments}")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
import numpy as np
from course import lesson, show
from avslib.video.predictor import Predictor
from avslib.video.overlay_video import write_video

video = write_video(sys.argv[1], np.zeros((5, 64, 64, 3), np.uint8), np.zeros(80000, np.float32), 1)
print(len(list(Predictor.from_checkpoint("mini-s4").predict(video))))
"""


def test_lessons_and_prediction_work_without_a_network(tmp_path):
    command = [sys.executable, "-c", OFFLINE, str(tmp_path / "a.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.split()[-1] == "5", done.stderr
