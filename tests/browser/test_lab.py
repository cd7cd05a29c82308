"""The first notebook in a real JupyterLab: it runs, and its sound swapper moves the mask at a key press.

The picture of it is left in build/browser/; results/demo/00_start_here.png is a copy.
"""

import io
import shutil
from pathlib import Path

import pytest
from lab_server import NO_CHROMIUM, find_chromium, lab, page_of, problems, run_all
from PIL import Image

from avslib.inline import small_png

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
