"""Committed tables and figures follow from the run records, and what does not is named."""

import re
import sys
from pathlib import Path

import pytest
import typer

from avslib.cli.study import table_command
from avslib.core.errors import KINDS, AvsError, InstallError
from avslib.study.records import write_record
from tests.helpers.study_records import study_record, write_study
from tools import generated

ROOT = Path(__file__).resolve().parents[3]
OFFSETS = {"ecmvae": 0.0, "without_mi": -0.1}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A README with a mark of each study, and records of one on S4; the current folder."""
    marks = "".join(f"<!-- table:{n} -->\n<!-- /table:{n} -->\n" for n in ("mini-s4", "ablation-s4", "ablation-ms3"))
    (tmp_path / "README.md").write_text(f"é\n{marks}end\n", encoding="utf-8")
    write_study(tmp_path / "results/ablation/runs", OFFSETS, seeds=2, clips=8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(paths):
    return sorted(Path(path).name for path in paths)


def test_committed_tables_and_figures_are_fresh():
    assert generated.stale(ROOT) == []


def test_every_error_has_an_anchor_of_its_own():
    anchors = re.findall(r'<a id="(\w+)"></a>(\w+) \|', generated.explained_errors())
    assert anchors == [(code.lower(), code) for code in KINDS]


def test_everything_is_written_once_and_is_fresh_then(checkout):
    made = ["README.md", "differences_s4.png", "table_s4.csv", "table_s4.html", "table_s4.md", "table_s4.tex"]
    assert names(generated.stale()) == made
    assert names(generated.write()) == made
    assert generated.stale() == generated.write() == []
    text = (checkout / "README.md").read_text(encoding="utf-8")
    assert "| without_mi |" in text and text.startswith("é\n") and text.endswith("end\n")
    assert "No run record yet: `avs ablate" in text and "No run record yet: `avs data build-mini" in text
    assert (checkout / "results/ablation/table_s4.md").read_text(encoding="utf-8") in text


def test_robustness_has_its_table_and_figure(checkout):
    scores = {split: {"J": 0.5, "F": 0.5, "falsely_lit": 0.1} for split in ("test", "test_unseen")}
    definitions = {"falsely_lit": "share of all pixels", "silence": "zeros"}
    record, clips = study_record(
        "ecmvae",
        0,
        {"a": 0.25, "b": 0.75},
        metrics=scores,
        baselines={"silence": scores},
        definitions=definitions,
        selection="mini-s4",
    )
    clips += [clip | {"baseline": "silence"} for clip in clips]
    write_record(checkout / "results/robustness/a", record, clips)
    page = checkout / "results/robustness/README.md"
    page.write_text("<!-- table:robustness -->\n<!-- /table:robustness -->\n", encoding="utf-8")
    made = {path.name for path in generated.write() if path.parent.name == "robustness"}
    assert made == {"README.md", "robustness_s4.png", "table.csv", "table.html", "table.md", "table.tex"}
    assert "| silence " in page.read_text(encoding="utf-8") and generated.stale() == []


def test_a_changed_record_makes_its_tables_and_figures_stale(checkout):
    generated.write()
    write_study(checkout / "results/ablation/runs", {"poe": 0.05}, seeds=2, clips=8)
    assert names(generated.stale()) == [
        "README.md",
        "differences_s4.png",
        "table_s4.csv",
        "table_s4.html",
        "table_s4.md",
        "table_s4.tex",
    ]


def test_an_edited_cell_a_foreign_figure_and_a_lost_file_are_stale(checkout):
    generated.write()
    folder = checkout / "results/ablation"
    page = folder / "table_s4.md"
    page.write_text(page.read_text(encoding="utf-8").replace("worse", "better"), encoding="utf-8")
    (folder / "differences_s4.png").write_bytes(b"no picture")
    (folder / "table_s4.csv").unlink()
    assert names(generated.stale()) == ["differences_s4.png", "table_s4.csv", "table_s4.md"]


def test_unknown_marks_and_other_folders_are_refused(checkout, tmp_path_factory):
    (checkout / "results/ablation/README.md").write_text("<!-- table:speed -->\n<!-- /table:speed -->\n")
    with pytest.raises(AvsError, match=r"no such table; tables are mini-s4.*ablation-s4"):
        generated.write()
    with pytest.raises(AvsError, match="needs its"):
        generated.fill_marks("<!-- table:mini-s4 -->\n", {}, "page.md")
    with pytest.raises(AvsError, match="in the folder of a checkout"):
        generated.stale(tmp_path_factory.mktemp("empty"))


def test_outside_a_checkout_the_command_says_what_it_needs(checkout, monkeypatch):
    monkeypatch.setitem(sys.modules, "tools", None)
    with pytest.raises(InstallError, match="of a checkout"):
        table_command(check=True)


def test_command_names_what_is_stale_and_exits_with_1(checkout, capsys):
    with pytest.raises(typer.Exit) as left:
        table_command(check=True)
    assert left.value.exit_code == 1 and "README.md: stale" in capsys.readouterr().out
    table_command(write=True)
    assert "README.md: written" in capsys.readouterr().out
    table_command(check=True)
    table_command(ablation=True, format="csv")
    assert capsys.readouterr().out.startswith("split,variant,score,value")
    table_command(data="avsbench", format="latex")
    assert r"\toprule" in capsys.readouterr().out
    with pytest.raises(AvsError, match="without other options"):
        table_command(write=True, check=True)
