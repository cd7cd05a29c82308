"""The course: every notebook has the same frame, stays small, and runs by papermill with its metrics in bounds."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from course.lesson import STANDARD
from course.quiz import still_form
from run import VARYING
from tests.helpers.book_files import broken_links
from tests.helpers.lesson_metrics import assert_in_bounds
from tools import notebooks
from tools.address import address, bootstrap, stale
from tools.book import build_book
from tools.refresh_notebooks import MAX_BYTES

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "00_start_here",
    "01_data",
    "02_audio",
    "03_vision",
    "04_segmentation_loss",
    "05_elbo",
    "06_shared_code",
    "07_orthogonality",
    "08_mutual_information",
    "09_fusion",
    "10_training",
    "11_metrics",
    "12_ablations",
    "13_tables",
    "14_uncertainty_and_your_video",
]
LESSONS = [ROOT / "notebooks" / f"{name}.ipynb" for name in NAMES]
SOLUTIONS = [ROOT / "notebooks" / "solutions" / f"{name}.ipynb" for name in NAMES]
EVERY = LESSONS + SOLUTIONS


def label(path: Path) -> str:
    return path.relative_to(ROOT / "notebooks").with_suffix("").as_posix()


each = pytest.mark.parametrize("path", EVERY, ids=label)


def code(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def prose(path: Path) -> str:
    return "\n\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")


def test_the_course_is_complete():
    assert notebooks.find() == LESSONS and notebooks.find(solutions=True) == SOLUTIONS


@each
def test_badge_and_bootstrap_follow_the_address(path):
    assert path not in stale()
    assert [cell.source for cell in code(path) if "colab" in cell.metadata.get("tags", [])] == [bootstrap(address())]


@each
def test_parameters_are_the_standard_ones_and_those_that_start_checks(path):
    found = notebooks.parameters(path)
    assert list(found)[: len(STANDARD)] == list(STANDARD)
    own = dict(list(found.items())[len(STANDARD) :])
    source = "\n".join(cell.source for cell in code(path) if not re.search(r"^\s*[!%]", cell.source, re.MULTILINE))
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    starts = [call for call in calls if getattr(call.func, "id", "") == "start"]
    assert len(starts) == 1 and starts[0].args[0].value == label(path)
    kinds = {keyword.arg: ast.unparse(keyword.value) for keyword in starts[0].keywords}
    assert list(kinds) == list(own)
    for name, default in own.items():
        kind = type(default).__name__
        if isinstance(default, list):
            kind = f"list[{type(default[0]).__name__ if default else 'str'}]"
        assert kinds[name] == kind


@each
def test_outputs_are_small_free_of_errors_and_pictures_have_texts(path):
    assert path.stat().st_size < MAX_BYTES
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3" and "widgets" not in notebook.metadata
    for cell in code(path):
        assert cell.execution_count, f"not executed: {cell.source[:60]}"
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", output
            if "image/png" in output.get("data", {}):
                assert output.metadata.get("image/png", {}).get("alt"), cell.source


@each
def test_ends_by_writing_its_metrics(path):
    assert "lesson.finish(" in code(path)[-1].source


@pytest.mark.parametrize("path", LESSONS, ids=label)
def test_a_lesson_has_questions_breaks_summary_and_exercises(path):
    text = prose(path)
    for heading in ("you can answer", "Where it breaks", "Summary", "Exercises"):
        assert heading.lower() in text.lower(), heading
    exercises = re.split(r"^#+ .*Exercises.*$", text, flags=re.MULTILINE | re.IGNORECASE)[1]
    assert 3 <= len(re.findall(r"^(?:\d\.|\*\*\d|#+ .*\d)", exercises, re.MULTILINE)) <= 6
    assert f"solutions/{path.name}" in exercises


@pytest.mark.parametrize("path", LESSONS, ids=label)
def test_a_lesson_opens_with_what_it_takes_its_idea_and_its_picture(path):
    cells = nbformat.read(path, as_version=4).cells
    lines = cells[0].source.splitlines()
    assert [" CPU" in line for line in lines if line.startswith("[How to run it on Colab](")] == [True]
    assert any(line.startswith("**The idea.** ") for line in lines)
    assert re.search(r"^!\[[^\]]{30,}\]\(attachment:opening.png\)$", cells[0].source, re.MULTILINE)
    pictures = [
        output.data["image/png"]
        for cell in cells
        if "opening" in cell.metadata.get("tags", [])
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert cells[0].attachments == {"opening.png": {"image/png": pictures[0]}}


@pytest.mark.parametrize("path", LESSONS, ids=label)
def test_a_summary_answers_each_question_of_the_opening(path):
    text = prose(path)
    asked, answered = (
        [int(number) for number in re.findall(r"^(\d+)\. ", part, re.MULTILINE)]
        for part in (
            text.split("you can answer")[1].split("Before this")[0].split("You need ")[0],
            text.split("## Summary")[1].split("## Exercises")[0],
        )
    )
    assert asked == answered == list(range(1, len(asked) + 1)) and asked


@pytest.mark.parametrize("path", LESSONS, ids=label)
def test_a_quiz_stands_before_the_summary_and_shows_without_a_kernel(path):
    cells = nbformat.read(path, as_version=4).cells
    (at,) = [i for i, cell in enumerate(cells) if cell.source.startswith("lesson.quiz(")]
    assert cells[at - 1].source.rpartition("## ")[2].startswith("Check yourself")
    assert cells[at + 1].source.startswith("## Summary")
    questions = [ast.literal_eval(question) for question in ast.parse(cells[at].source).body[0].value.args]
    assert 3 <= len(questions) <= 5 and len({right for _, _, right, _ in questions}) > 1
    assert cells[at].metadata["jupyter"] == {"source_hidden": True}  # it holds the answers
    (output,) = cells[at].outputs
    assert set(output.data) == {"text/plain", "text/html"}
    assert output.data["text/html"] == still_form(questions)


@pytest.mark.parametrize("path", LESSONS, ids=label)
def test_a_widget_shows_a_picture_or_a_form_without_a_kernel(path):
    bundles = [output.get("data", {}) for cell in code(path) for output in cell.outputs]
    assert not [data for data in bundles if "application/vnd.jupyter.widget-view+json" in data]


def test_links_between_lessons_lead_somewhere():
    for path in EVERY:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose(path)):
            assert (path.parent / link).exists(), f"{label(path)}: {link}"


def run(path: Path, out: Path, **given) -> None:
    by_number = notebooks.read_parameters(ROOT / "notebooks" / "params" / "ci.yaml")
    result = notebooks.run_notebook(path, out, notebooks.given_for(path, by_number) | given)
    assert_in_bounds(label(path), result)


def _run_once(path: Path) -> list:
    """nbval runs the other lessons with the same parameters, and compares what they print."""
    return [pytest.mark.notebook if path in SOLUTIONS or path.name.startswith(VARYING) else pytest.mark.long]


@pytest.mark.parametrize("path", [pytest.param(p, marks=_run_once(p), id=label(p)) for p in EVERY])
def test_runs_by_papermill_with_metrics_in_bounds(path, tmp_path):
    run(path, tmp_path)


@pytest.mark.notebook
def test_papermills_own_form_of_a_wrong_type_stops_a_lesson(tmp_path):
    import papermill

    given = {"TRAIN": "false", "OUT_DIR": str(tmp_path)}
    with pytest.raises(papermill.PapermillExecutionError, match="TRAIN: expected a valid boolean; got 'false'"):
        papermill.execute_notebook(notebooks.find(["07"])[0], tmp_path / "out.ipynb", given, kernel_name="python3")


@pytest.mark.notebook
def test_the_book_holds_every_page_with_words_for_its_pictures(tmp_path):
    build_book(tmp_path / "book")
    for path in EVERY:
        page = (tmp_path / "book" / "notebooks" / f"{label(path)}.html").read_text(encoding="utf-8")
        pictures = re.findall(r'<img[^>]*src="[^"]*_images/[^>]*>', page)
        assert not [p for p in pictures if not re.search(r'alt="(?!_images|\.\./_images)[^"]{9,}"', p)], label(path)
    assert all((tmp_path / "book" / "docs" / f"{page.stem}.html").is_file() for page in (ROOT / "docs").glob("*.md"))
    assert broken_links(tmp_path / "book") == []


@pytest.mark.gpu
@pytest.mark.parametrize("path", LESSONS, ids=label)
def test_runs_on_a_gpu(path, tmp_path):
    run(path, tmp_path, DEVICE="cuda")
