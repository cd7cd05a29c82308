"""The ablation table claims what intervals allow, compares only what may be compared, and prints in every format."""

import csv
import io

import pytest
from rich.console import Console

from avslib.core.errors import AvsError
from avslib.study.ablation import ablation_table, compare, differences_figure
from avslib.study.intervals import clip_scores, difference_interval, mean_interval
from avslib.study.plots import save_figure
from avslib.study.records import load_records, write_record
from tests.helpers.study_records import squeezed, study_record, write_study

OFFSETS = {"without_mi": 0.1, "ecmvae": 0.0, "without_both": 0.0001, "without_orthogonality": -0.1}


def numbers(records, task="s4", **options):
    rows = csv.DictReader(io.StringIO(ablation_table(records, task, "csv", **options)))
    return {row["variant"]: row for row in rows if row["split"] == "test"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study") / "results" / "ablation" / "runs", OFFSETS)


def test_full_model_first_and_claims_only_where_zero_is_excluded(study):
    rows = numbers(study)
    assert list(rows) == ["ecmvae", "without_orthogonality", "without_mi", "without_both"], "the order of VARIANTS"
    assert [row["claim"] for row in rows.values()] == ["", "worse", "better", "no significant difference"]


def test_numbers_are_those_of_the_intervals(study):
    row, full = numbers(study)["without_mi"], [r for r in study if r.method == "ecmvae"]
    mine = clip_scores([r for r in study if r.method == "without_mi"], "test")
    want = difference_interval(mine, clip_scores(full, "test"), same_seeds=True)
    keys = ("difference", "difference_low", "difference_high")
    assert [float(row[key]) for key in keys] == pytest.approx(want, abs=6e-6)
    assert [float(row[key]) for key in ("value", "low", "high")] == pytest.approx(mean_interval(mine), abs=6e-6)
    assert row["runs"].split() == sorted(r.id for r in study if r.method == "without_mi") and row["n"] == "3"


def test_every_format_shows_every_variant_and_a_terminal_of_80_columns_every_column(study):
    for fmt in ("md", "csv", "latex", "html"):
        assert ablation_table(study, "s4", fmt).count("without") >= 6
    text = ablation_table(study, "s4")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 * (2 + 4)
    console = Console(width=80, file=io.StringIO())
    console.print(ablation_table(study, "s4", "rich"))
    shown = console.file.getvalue()
    assert "significant" in shown and shown.count(" n \n") == 2 and "…" not in shown
    with pytest.raises(AvsError, match="expected md, csv"):
        ablation_table(study, "s4", "pdf")


def test_notes_say_data_size_start_intervals_and_chance(study):
    text = ablation_table(study, "s4")
    assert "Data: d0. Size of each run: 128 px, 5 frames per clip, 40 train clips, epochs: 1" in text
    assert "Start: weights of mini-s4 (all modules)." in text and "4000 draws" in text
    assert "about 0.3 of the 6 intervals would exclude it by chance" in text
    assert "12 run records, code of commit 01234567;" in text


def test_one_seed_makes_no_claim(tmp_path):
    for method, j in (("ecmvae", 0.5), ("without_mi", 0.3)):
        write_record(tmp_path / method, *study_record(method, 0, {f"c{i}": j for i in range(9)}))
    assert "[-0.200, -0.200] | one seed: none |" in squeezed(ablation_table(load_records(tmp_path), "s4"))


def test_a_zero_that_was_rounded_keeps_its_sign(tmp_path):
    values = {f"c{i}": 0.5 for i in range(9)}
    for method, j in (("ecmvae", 0.5), ("without_mi", 0.4998), ("without_both", 0.5)):
        for seed in (0, 1):
            write_record(tmp_path / f"{method}{seed}", *study_record(method, seed, dict.fromkeys(values, j)))
    text = squeezed(ablation_table(load_records(tmp_path), "s4"))
    assert "| without_mi | 0.500 ± 0.000 | [0.500, 0.500] | -0.000 | [-0.000, -0.000] | worse |" in text
    assert (
        "| without_both | 0.500 ± 0.000 | [0.500, 0.500] | 0.000 | [0.000, 0.000] | no significant difference |" in text
    )


def test_seeds_that_only_one_of_two_methods_has_are_not_paired(tmp_path):
    records = write_study(tmp_path, {"ecmvae": 0.0, "without_mi": -0.1})
    part = [r for r in records if (r.method, r.seed) != ("without_mi", 1)]
    _, row = compare(part, "s4")["test"]
    assert len(row.row.seeds) == 2 and len(row.by_seed) == 2 and row.claim == "worse"
    mine, theirs = (clip_scores([r for r in part if r.method == m], "test") for m in ("without_mi", "ecmvae"))
    assert row.difference == difference_interval(mine, theirs, same_seeds=False)
    assert row.by_seed == pytest.approx([(mine[i] - theirs[j]).mean() for i, j in ((0, 0), (1, 2))])


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"overrides": {"train.epochs": 3}}, r"train.epochs is 3 in without_mi and 1 in ecmvae: only runs of one size"),
        ({"overrides": {"model.image_size": 96}}, "model.image_size is 96 in without_mi and 128 in ecmvae"),
        ({"overrides": {"data.max_clips": 4}}, "data.max_clips is 4"),
        ({"dataset": "d1"}, "runs on d0 and on d1"),
    ],
)
def test_runs_of_other_size_or_data_are_not_compared(tmp_path, changed, sentence):
    write_record(tmp_path / "a", *study_record("ecmvae", 0, {"a": 0.5}))
    write_record(tmp_path / "b", *study_record("without_mi", 0, {"a": 0.5}, **changed))
    with pytest.raises(AvsError, match=sentence):
        ablation_table(load_records(tmp_path), "s4")


def test_configurations_of_one_name_keep_their_own_rows(tmp_path):
    for name, method, dim in (("a", "ecmvae", 16), ("b", "poe", 4), ("c", "poe", 16)):
        write_record(tmp_path / name, *study_record(method, 0, {"a": 0.5}, overrides={"model.latent_dim": dim}))
    assert list(numbers(load_records(tmp_path))) == ["ecmvae", "poe (latent_dim=4)", "poe (latent_dim=16)"]
    write_record(tmp_path / "d", *study_record("ecmvae", 0, {"a": 0.5}, overrides={"model.latent_dim": 4}))
    with pytest.raises(AvsError, match="two configurations of the full model"):
        ablation_table(load_records(tmp_path), "s4")


def test_without_records_or_without_the_full_model_the_table_says_so(study):
    assert "No run record yet: `avs ablate configs/ablate-mini.yaml" in ablation_table(study, "ms3")
    text = ablation_table([r for r in study if r.method != "ecmvae"], "s4")
    assert "No run of ecmvae: there is nothing to compare with." in text
    assert "nothing to compare" not in ablation_table([r for r in study if r.method == "ecmvae"], "s4")


def test_differences_show_both_splits_and_are_refused_without_a_comparison(study, tmp_path):
    from tests.unit.study.test_plots import shows

    path = save_figure(differences_figure(compare(study, "s4")), tmp_path / "a.png")
    assert shows(path, "blue") and shows(path, "orange")
    with pytest.raises(AvsError, match="no variant is compared"):
        differences_figure(compare([r for r in study if r.method == "ecmvae"], "s4"))
