"""Rehearse a notebook's steps on Colab: python tests/environments/colab.py [NN] [--keep FOLDER]

An empty virtual environment gets what a Colab runtime brings, a stand-in for ``google.colab``, and an archive of HEAD
in its working directory. Then the notebook runs there from its first cell to its last. Needs a package index and 8 GB
of disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# of what Colab preinstalls, the packages that avslib needs too
RUNTIME = ["fsspec", "huggingface-hub", "ipykernel", "ipython", "ipywidgets", "jinja2", "matplotlib", "numpy", "pandas"]
RUNTIME += ["pillow", "psutil", "pydantic", "pyyaml", "rich", "scipy", "seaborn", "soundfile", "tabulate", "typer"]
RUNTIME += ["torch", "torchaudio", "torchvision"]


def prepare(folder: Path) -> tuple[Path, Path]:
    """The environment's interpreter and the working directory."""
    python, content = folder / "venv" / "bin" / "python", folder / "content"
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, *RUNTIME], check=True)
    stand_in = folder / "stand-in" / "google" / "colab"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    content.mkdir()
    archive = ["git", "archive", "--format=zip", "--prefix=avslib/", "-o", content / "avslib.zip", "HEAD"]
    subprocess.run(archive, cwd=ROOT, check=True)
    return python, content


def execute(number: str, python: Path, content: Path) -> str:
    """Run the notebook with the kernel of that interpreter; the text of its last cell."""
    import nbformat
    from nbclient import NotebookClient

    kernel = content.parent / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    environment = {"PYTHONPATH": str(content.parent / "stand-in"), "COLAB_RELEASE_TAG": "rehearsal"}
    start = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    specification = {"argv": start, "display_name": "colab", "language": "python", "env": environment}
    (kernel / "kernel.json").write_text(json.dumps(specification), encoding="utf-8")
    os.environ["JUPYTER_PATH"] = str(content.parent / "jupyter")
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    # Colab imports it when the kernel starts
    notebook.cells.insert(0, nbformat.v4.new_code_cell("import google.colab"))
    NotebookClient(
        notebook, timeout=3600, kernel_name="colab", resources={"metadata": {"path": str(content)}}
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(output.get("text", "") for cell in (code[1], code[-1]) for output in cell.outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", nargs="?", default="00")
    parser.add_argument("--keep", type=Path, help="a new folder that stays, in place of a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).resolve()
        began = time.perf_counter()
        python, content = prepare(folder)
        print(f"runtime ready after {time.perf_counter() - began:.0f} s", flush=True)
        print(execute(given.number, python, content))
        print(f"notebook {given.number}: every cell ran; {time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
