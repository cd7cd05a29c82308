"""JupyterLab in a real browser: the first notebook's sound swapper at a key press, an uploaded video, and a quiz.

The pictures are left in build/browser/; results/demo/00_start_here.png is a copy of one.
"""

import io
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from avslib.data.avsbench import AVSBench
from avslib.video.overlay_video import write_video
from course.show import small_png
from tests.browser.lab_server import NO_CHROMIUM, find_chromium, lab, page_of, problems, run_all
from tools.refresh_notebooks import KERNEL

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "build" / "browser" / "00_start_here.png"


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason=NO_CHROMIUM)
def test_swapping_the_sound_moves_the_mask(tmp_path):
    work = tmp_path / "notebooks"
    work.mkdir()
    shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", work)
    with lab(work, tmp_path / "private") as (address, token), page_of(address) as page:
        assert problems(run_all(page, address, token, "00_start_here.ipynb")) == []

        sound = page.get_by_label("Sound of clip")
        panel = page.locator(".widget-vbox", has=sound)
        picture = panel.locator("img")
        before = picture.get_attribute("src"), picture.get_attribute("alt")
        sound.focus()
        page.keyboard.press("ArrowDown")
        page.wait_for_function(
            "([image, old]) => image.isConnected === false || image.src !== old",
            arg=[picture.element_handle(), before[0]],
        )
        after = picture.get_attribute("src"), picture.get_attribute("alt")
        assert after[0] != before[0] and after[1] != before[1]
        assert "J " in after[1] and picture.count() == 1  # redrawn in place
        assert picture.evaluate("image => image.complete && image.naturalWidth > 300")

        panel.scroll_into_view_if_needed()
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        PICTURE.write_bytes(small_png(Image.open(io.BytesIO(page.screenshot()))))


UPLOAD = [
    "from avslib.video.predictor import Predictor",
    "from course.widgets import video_upload",
    "video_upload(Predictor.from_checkpoint('mini-s4'))",
]


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason=NO_CHROMIUM)
def test_an_uploaded_video_comes_back_with_what_sounds(tmp_path, mini_data):
    work = tmp_path / "notebooks"
    work.mkdir()
    nbformat.write(
        new_notebook(cells=[new_code_cell("\n".join(UPLOAD))], metadata={"kernelspec": dict(KERNEL)}),
        work / "upload.ipynb",
    )
    clip = AVSBench(mini_data, "s4", "test")
    frames = clip[0]["image"].permute(0, 2, 3, 1).numpy().repeat(5, 0)
    write_video(tmp_path / "mine.mp4", frames, clip.waveform(0).numpy(), fps=5)
    (tmp_path / "none.mp4").write_bytes(b"no video")
    with lab(work, tmp_path / "private") as (address, token), page_of(address) as page:
        assert problems(run_all(page, address, token, "upload.ipynb")) == []
        button = page.get_by_role("button", name="Segment")

        def choose(name: str) -> None:
            with page.expect_file_chooser() as chooser:
                page.get_by_role("button", name="Choose a video").click()
            chooser.value.set_files(tmp_path / name)

        choose("none.mp4")
        page.get_by_text("none.mp4, 0.0 MB: press Segment.").wait_for()
        button.click()
        page.get_by_role("alert").wait_for()
        choose("mine.mp4")
        page.get_by_text("mine.mp4, ").wait_for()
        button.click()
        page.get_by_text("mine.mp4: done.").wait_for(timeout=90_000)
        video = page.get_by_label("mine.mp4 with what sounds outlined")
        assert video.get_attribute("src").startswith("data:video/mp4;base64,")
        strip = page.locator("img[src^='data:image/png']")
        assert strip.evaluate("image => image.complete && image.naturalWidth > 300")
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        PICTURE.with_name("upload.png").write_bytes(small_png(Image.open(io.BytesIO(page.screenshot()))))


QUIZ = """from course.quiz import quiz
quiz(("Which one is even?", ["three", "four", "five"], 1, "Four is twice two."),
     ("Is a question that needs much more than one line of the form still shown in full, in every window, even where "
      "the window is as narrow as this one?", ["yes", "no"], 0, "It wraps."))"""


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason=NO_CHROMIUM)
def test_a_quiz_is_answered_by_the_keyboard(tmp_path):
    work = tmp_path / "notebooks"
    work.mkdir()
    cells = [new_code_cell(QUIZ), new_code_cell("1")]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": dict(KERNEL)}), work / "quiz.ipynb")
    with lab(work, tmp_path / "private") as (address, token), page_of(address, width=900) as page:
        assert problems(run_all(page, address, token, "quiz.ipynb")) == []
        even = page.get_by_role("radiogroup", name="1. Which one is even?")
        even.get_by_label("three").focus()
        page.keyboard.press("ArrowDown")
        assert even.get_by_label("four").is_checked()
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("1 of 2 right.").wait_for()
        page.get_by_text("Right. Four is twice two.").wait_for()
        page.get_by_text("No, the answer is: yes. It wraps.").wait_for()
        question = page.get_by_role("radiogroup", name="2. Is a question that needs")
        lines = "group => group.querySelector('label').getBoundingClientRect().height"
        assert question.evaluate("group => group.scrollWidth <= group.clientWidth")
        assert question.evaluate(lines) > 30, "two lines"
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        PICTURE.with_name("quiz.png").write_bytes(small_png(Image.open(io.BytesIO(page.screenshot()))))
