"""The repository's address: one setting that badges, bootstrap cells and pages follow; and what the bootstrap finds."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from avslib.core.errors import UsageError
from tools import address, colab
from tools.pypi_readme import absolute

ROOT = Path(__file__).resolve().parents[3]
URL = "https://github.com/owner/name"
FILES = ["pyproject.toml", "README.md", "avslib/assets/model_card.md"]
FILES += ["notebooks/05_elbo.ipynb", "notebooks/solutions/05_elbo.ipynb"]


@pytest.fixture
def checkout(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def contents(root):
    return {name: (root / name).read_text(encoding="utf-8") for name in FILES}


def test_every_file_of_this_checkout_follows_the_address():
    assert address.stale() == []


def test_the_address_is_written_everywhere_and_unset_again(checkout):
    before = contents(checkout)
    assert len(address.write(URL, checkout)) == len(FILES) and address.address(checkout) == URL
    after = contents(checkout)
    assert all(URL.removeprefix("https://") in text or "/github/owner/name/blob" in text for text in after.values())
    first = json.loads(after["notebooks/solutions/05_elbo.ipynb"])["cells"][0]["source"]
    assert "colab.research.google.com/github/owner/name/blob/main/notebooks/solutions/05_elbo.ipynb)" in "".join(first)
    assert address.write(URL, checkout) == [] == address.stale(checkout)
    (checkout / FILES[1]).write_text(before[FILES[1]], encoding="utf-8")
    assert address.stale(checkout) == [checkout / FILES[1]]
    address.write("", checkout)
    assert contents(checkout) == before and address.address(checkout) == ""


@pytest.mark.parametrize("url", ["github.com/a/b", "https://github.com/a", 'https://github.com/a/b"; evil'])
def test_other_forms_are_refused(checkout, url):
    before = contents(checkout)
    with pytest.raises(UsageError, match=r"expected https://.*OWNER/NAME"):
        address.write(url, checkout)
    assert contents(checkout) == before


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """An empty working directory like Colab's, where google.colab is imported."""
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def repository(folder):
    (folder / "tools").mkdir(parents=True)
    (folder / "run.py").touch()
    (folder / "tools" / "colab.py").write_text("print('installed from', __file__)\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("place", [".", "drive/MyDrive"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_the_first_cell_finds_an_upload_or_a_drive(runtime, capsys, place, form):
    made = repository(runtime / "made" / "avslib-main")
    (runtime / place).mkdir(parents=True, exist_ok=True)
    if form == "zip":
        with zipfile.ZipFile(runtime / place / "avslib.zip", "w") as archive:
            for path in made.rglob("*.py"):
                archive.write(path, path.relative_to(made.parent))
        shutil.rmtree(made)
    else:
        shutil.move(made, runtime / place)
    exec(address.bootstrap(""), {})
    assert "installed from" in capsys.readouterr().out


def test_without_either_it_stops_with_a_sentence(runtime):
    with pytest.raises(SystemExit, match="upload an archive of the repository"):
        exec(address.bootstrap(""), {})


def test_elsewhere_the_first_cell_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(address.bootstrap(URL), {})
    assert list(tmp_path.iterdir()) == []


def test_only_what_the_runtime_lacks_is_installed():
    install, notes = colab.plan(["torch>=99", "pytest", "pytest<1", "nowhere-to-be-found>=2", "torchmetrics>=99"])
    assert install == ["pytest<1", "nowhere-to-be-found>=2", "torchmetrics>=99"]
    assert len(notes) == 1 and "avslib was tested with >=99" in notes[0]


@pytest.mark.parametrize("url", ["", URL])
def test_the_readme_of_a_package_index_has_no_relative_link(url):
    text = absolute((ROOT / "README.md").read_text(encoding="utf-8"), url)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all(link.startswith("https://") for link in links) and len(links) > (30 if url else 0)
    assert "Errors" in text and (f'<img src="{URL}/raw/main/results/demo/' in text) == bool(url)
    metadata = ProjectMetadata(str(ROOT), PluginManager())
    assert metadata.core.readme == absolute((ROOT / "README.md").read_text(encoding="utf-8"), address.address())
