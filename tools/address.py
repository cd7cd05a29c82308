"""The public address of the repository: one setting, written into badges, bootstrap cells and pages.

    python -m tools.address                                  print it and the files that do not follow; code 1 if any
    python -m tools.address https://github.com/OWNER/NAME    set it in pyproject.toml and write it everywhere
    python -m tools.address none                             unset it

Until it is set there is no badge and no ``git clone``: both would fetch a stranger's code.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

from avslib.core.errors import UsageError
from avslib.core.files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
BRANCH = "main"
SETTING = re.compile(r'\n\[project\.urls\]\nRepository = "[^"]*"\n')
FORM = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
# what leads a notebook's line about its duration
LEAD = re.compile(
    r"^(?:\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)|\[How to run it on Colab\]\([^)]*\)) &nbsp; ", re.MULTILINE
)
MARK = re.compile(r"(<!-- address -->\n).*?(<!-- /address -->)", re.DOTALL)
CARD = re.compile(r"A checkpoint for (?:\[avslib\]\([^)]*\)|avslib), an")
BOOTSTRAP = """\
import sys

if "google.colab" in sys.modules:  # on Colab: installs avslib from {what}
    import runpy
    import shutil{more}
    from pathlib import Path

    def _find(*patterns):
        places = [Path(), Path("drive/MyDrive")]
        return next((path for place in places for name in patterns for path in sorted(place.glob(name))), None)

    if not _find("avslib*/run.py") and (_archive := _find("avslib*.zip", "avslib*.tar.gz")):
        shutil.unpack_archive(_archive)
    if not _find("avslib*/run.py"):
        {otherwise}
    runpy.run_path(str(_find("avslib*/run.py").parent / "tools" / "colab.py"), run_name="__main__")"""
CLONE = 'subprocess.run(["git", "clone", "-q", "--depth", "1", "{}", "avslib-repository"], check=True)'
STOP = 'raise SystemExit("no avslib here: upload an archive of the repository, or mount a Drive that holds one")'


def address(root: Path = ROOT) -> str:
    """The address as pyproject.toml has it; "" where it is not set."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def bootstrap(url: str) -> str:
    """The source of the notebooks' first code cell."""
    if url:
        return BOOTSTRAP.format(
            what="an uploaded archive or folder, a mounted Drive, or a clone",
            more="\n    import subprocess",
            otherwise=CLONE.format(url),
        )
    return BOOTSTRAP.format(what="an uploaded archive or folder, or a mounted Drive", more="", otherwise=STOP)


def _notebook(path: Path, text: str, url: str, root: Path) -> str:
    notebook = json.loads(text)
    first, place = notebook["cells"][0], path.relative_to(root).as_posix()
    page = "../" * place.count("/") + "docs/colab.md"
    lead = f"[How to run it on Colab]({page}) &nbsp; "
    if url:
        opens = (
            f"https://colab.research.google.com/github/{url.removeprefix('https://github.com/')}/blob/{BRANCH}/{place}"
        )
        lead = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({opens}) &nbsp; "
    found, count = LEAD.subn(lambda _: lead, "".join(first["source"]))
    if count != 1:
        raise UsageError(f"{path}: its first cell needs one line that begins with {lead!r}, found {count}")
    first["source"] = found.splitlines(keepends=True)
    for cell in notebook["cells"]:
        if "colab" in cell.get("metadata", {}).get("tags", []):
            cell["source"] = bootstrap(url).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _pages(url: str) -> str:
    if url:
        return (
            f"Repository: <{url}>. Badges open the notebooks [on Colab](docs/colab.md); nothing has been run there.\n"
        )
    return "There are no Colab badges, as this repository has no public address yet: [other ways](docs/colab.md).\n"


def texts(url: str, root: Path = ROOT) -> dict[Path, str]:
    """Every file that holds the address, or would, as it should be with `url`."""
    project, readme, card = root / "pyproject.toml", root / "README.md", root / "avslib/assets/model_card.md"
    setting = f'\n[project.urls]\nRepository = "{url}"\n' if url else ""
    before = SETTING.sub("", project.read_text(encoding="utf-8"))
    found = {project: before.replace("\n[project.scripts]\n", f"{setting}\n[project.scripts]\n")}
    found[readme] = MARK.sub(lambda m: m[1] + _pages(url) + m[2], readme.read_text(encoding="utf-8"))
    name = f"[avslib]({url})" if url else "avslib"
    found[card] = CARD.sub(f"A checkpoint for {name}, an", card.read_text(encoding="utf-8"))
    for path in sorted(root.glob("notebooks/**/[0-9][0-9]_*.ipynb")):
        found[path] = _notebook(path, path.read_text(encoding="utf-8"), url, root)
    return found


def stale(root: Path = ROOT) -> list[Path]:
    """Files that do not follow the setting."""
    return [path for path, text in texts(address(root), root).items() if path.read_text(encoding="utf-8") != text]


def write(url: str, root: Path = ROOT) -> list[Path]:
    """Set the address ("" unsets it) and write it everywhere; returns the files that changed.

    Raises:
        AvsError: `url` is not of the form https://github.com/OWNER/NAME, or a notebook lacks its line for the badge.
    """
    if url and not FORM.fullmatch(url):
        raise UsageError(f"address {url!r}: expected https://github.com/OWNER/NAME, which Colab's badges need")
    changed = []
    for path, text in texts(url, root).items():
        if path.read_text(encoding="utf-8") != text:
            with atomic_path(path) as part:
                part.write_text(text, encoding="utf-8", newline="\n")
            changed.append(path)
    return changed


def main(arguments: list[str]) -> int:
    try:
        if arguments:
            url = arguments[0].removesuffix("/").removesuffix(".git")
            for path in write("" if url == "none" else url):
                print("written:", path.relative_to(ROOT))
        paths = stale()
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"address: {address() or 'not set'}")
    for path in paths:
        print("does not follow:", path.relative_to(ROOT))
    return int(bool(paths))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
