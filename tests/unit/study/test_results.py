"""Run records keep what they must, and tables print only what records hold."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from avslib.core.errors import AvsError
from avslib.study import records as run_records
from avslib.study import results


def record(seed=0, j=0.5, data="mini", method="ecmvae", task="s4", backbone="resnet50", **fields):
    config = {"model": {"backbone": backbone, "image_size": 224}, "train": {"seed": seed}, "data": {"root": "/x/mini"}}
    metrics = {split: {"J": j, "F": 0.75, "F_legacy@8": 0.7} for split in ("val", "test", "test_unseen")}
    given = {"dataset": {"id": "d0", "clips": {"train": 8, "test": 4}}, "selection": "best J on val"}
    given |= {"metrics": metrics, "wall_seconds": 1.5} | fields
    return run_records.new_record(data=data, task=task, method=method, seed=seed, config=config, **given)


def saved(folder, *records):
    for r in records:
        run_records.write_record(folder / r.id, r)
    return run_records.load_records(folder)


def cells(records, task="s4", data="mini"):
    return list(csv.DictReader(io.StringIO(results.table(records, task, data, "csv"))))


def test_record_returns_from_disk_as_it_went(tmp_path):
    clips = [{"name": "é, 1", "split": "test", "J": 0.25}, {"name": "b", "split": "test", "baseline": "mute", "J": 1}]
    made = record(baselines={"audio shuffled": {"test": {"J": 0.125}}})
    path = run_records.write_record(tmp_path / "a", made, clips)
    (read,) = run_records.load_records(tmp_path)
    assert read.model_dump() == made.model_dump() and read.path == path == tmp_path / "a" / "run.json"
    assert [tuple(clip.values()) for clip in run_records.load_clips(read)] == [
        ("é, 1", "test", "", 0.25),
        ("b", "test", "mute", 1.0),
    ]


def test_record_says_what_ran_where():
    made = record()
    assert {"python", "cpu", "cores", "memory_bytes", "gpus", "packages"} <= made.environment.keys()
    assert made.environment["packages"]["torch"] and made.peak_memory_bytes > 1e7
    assert made.config["data"]["root"] == "mini", "absolute paths name one machine"
    assert set(made.definitions) == {"J", "F", "F_legacy@N"}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"metrics": {"test": {"J": 54.0}}}, r"metrics\.test: .*J should lie between 0 and 1, found 54"),
        ({"speed": 3}, "speed"),
        ({"version": 2}, "version"),
        ({"config": {}}, "edited"),
        ({"id": "../up"}, "id"),
    ],
)
def test_damaged_record_is_named_with_its_field(tmp_path, change, sentence):
    path = run_records.write_record(tmp_path, record())
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(AvsError, match=sentence) as error:
        run_records.load_records(tmp_path)
    assert "run.json" in str(error.value)


def test_unreadable_missing_and_double_records_are_named(tmp_path):
    with pytest.raises(AvsError, match="no such folder"):
        run_records.load_records(tmp_path / "none")
    run_records.write_record(tmp_path / "a", record())
    run_records.write_record(tmp_path / "b", record())
    with pytest.raises(AvsError, match="delete one"):
        run_records.load_records(tmp_path)
    (tmp_path / "a" / "run.json").write_text('{"version": 1', encoding="utf-8")
    with pytest.raises(AvsError, match=r"damaged .*; expected a run record"):
        run_records.load_records(tmp_path)


def test_undefined_metric_is_kept_as_none_and_not_averaged(tmp_path):
    nan = {"test": {"J": 0.5, "F": float("nan")}}
    records = saved(tmp_path, record(0, metrics=nan), record(1, metrics=nan))
    assert records[0].metrics["test"]["F"] is None
    assert cells(records)[0]["F test"] == ""


def test_seeds_are_pooled_with_mean_and_sd(tmp_path):
    records = saved(tmp_path, *(record(seed, j) for seed, j in enumerate((0.4, 0.5, 0.6))))
    (row,) = cells(records)
    assert (row["Method"], row["J test"], row["n"]) == ("ecmvae", "0.500 ± 0.100", "3")
    assert row["F_legacy@8 test_unseen"] == "0.700 ± 0.000"
    assert row["Runs"].split(", ") == [r.id for r in records]


def test_other_configuration_is_another_row_and_a_later_run_replaces_its_seed(tmp_path):
    early, late = record(0, 0.1, created="2026-01-01", id="early"), record(0, 0.2, created="2026-01-02", id="late")
    records = saved(tmp_path, early, late, record(0, 0.9, backbone="tf_efficientnet_lite0"))
    rows = cells(records)
    assert sorted(row["J test"] for row in rows) == ["0.200", "0.900"]
    assert "has the same variant and seed: early." in results.table(records, "s4")
    assert "Left out" not in results.table(records[1:], "s4")
    assert "ecmvae (backbone=resnet50)" in {row["Method"] for row in rows}


def test_records_behind_links_are_read(tmp_path):
    saved(tmp_path / "disk", record(0), record(1))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert [r.seed for r in run_records.load_records(tmp_path / "runs")] == [0, 1]


def test_baselines_stand_below_their_method(tmp_path):
    baselines = {"audio shuffled": {"test": {"J": 0.2}}, "all objects": {"test": {"J": 0.3}}}
    records = [record(method="a_first"), record(baselines=baselines)]
    rows = cells(saved(tmp_path / "one", *records))
    assert [row["Method"] for row in rows] == ["ecmvae", "audio shuffled", "all objects", "a_first"]
    assert [row["J test"] for row in rows][1:3] == ["0.200", "0.300"]
    poe = record(method="poe", baselines={"all objects": {"test": {"J": 0.3}}})
    rows = cells(saved(tmp_path / "two", *records, poe))
    assert [row["Method"] for row in rows][2:] == ["ecmvae: all objects", "a_first", "poe", "poe: all objects"]


def test_data_sets_never_share_a_table(tmp_path):
    records = saved(tmp_path, record(j=0.123), record(j=0.456, data="avsbench"))
    mini, avsbench = (results.table(records, "s4", data) for data in ("mini", "avsbench"))
    assert "0.123" in mini and "0.456" not in mini
    assert "45.60" in avsbench and "12.30" not in avsbench


def test_paper_table_has_the_published_figures_and_leaves_ours_empty(tmp_path):
    rows = {(r["Method"], r["Backbone"]): r for r in cells([], "ms3", "avsbench")}
    ours = rows["ECMVAE (2023)", "PVTv2-B5"]
    assert (ours["Paper J"], ours["Paper F"], ours["Ours J"], ours["Runs"]) == ("57.84", "70.8", "", "")
    assert "Stepping-Stones README" in ours["Source"] and len(rows) == len(results.published())
    assert "avs train --preset paper --data DIR --task ms3" in results.table([], "ms3", "avsbench")

    records = saved(tmp_path, record(task="ms3", data="avsbench"), record(task="ms3", data="avsbench", backbone="swin"))
    rows = {(r["Method"], r["Backbone"]): r for r in cells(records, "ms3", "avsbench")}
    assert rows["ECMVAE (2023)", "ResNet-50"]["Ours J"] == "50.00"
    assert rows["ecmvae (backbone=swin)", "swin"]["Paper J"] == ""


def test_a_try_on_some_clips_does_not_stand_beside_a_published_figure(tmp_path):
    run = record(task="ms3", data="avsbench")
    config = run.config | {"data": run.config["data"] | {"max_clips": 40}}
    run = run.model_copy(update={"config": config, "config_hash": run_records.config_hash(config)})
    rows = {(r["Method"], r["Backbone"]): r for r in cells(saved(tmp_path, run), "ms3", "avsbench")}
    assert rows["ECMVAE (2023)", "ResNet-50"]["Ours J"] == ""
    assert rows["ecmvae, first 40 clips of each split", "ResNet-50"]["Ours J"] == "50.00"


def test_number_without_a_file_is_not_printed():
    with pytest.raises(AvsError, match="was not saved"):
        results.table([record()], "s4")


@pytest.mark.parametrize("data", ["mini", "avsbench"])
def test_every_format_prints_on_a_narrow_terminal(tmp_path, data):
    records = saved(tmp_path, record(data=data))
    console = Console(width=80, file=io.StringIO())
    console.print(results.table(records, "s4", data, "rich"))
    shown = console.file.getvalue()
    assert records[0].id in shown.replace("\n", "") and "…" not in shown
    assert ("0.500" in shown and f"ecmvae: {records[0].id}" in shown) if data == "mini" else "ECMVAE (2023): " in shown
    lines = [line for line in results.table(records, "s4", data, "md").splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    with pytest.raises(AvsError, match="expected md, csv, latex, html or rich"):
        results.table(records, "s4", data, "docx")


class Cells(HTMLParser):
    """Rows of an HTML table's cells, and the tags around them."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open, self.tags = [], [], set()
        self.feed(text)
        self.close()
        assert not self.open, "every tag is closed"

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.mark.parametrize("data", ["mini", "avsbench"])
def test_latex_and_html_hold_the_cells_of_the_csv(tmp_path, data):
    records = saved(tmp_path, record(data=data, method="a_b & <c> 5%"), record(1, data=data, method="a_b & <c> 5%"))
    header, *body = csv.reader(io.StringIO(results.table(records, "s4", data, "csv")))
    found = Cells(results.table(records, "s4", data, "html"))
    assert found.rows[: len(body) + 1] == [header, *body]
    assert {"caption", "thead", "tbody"} <= found.tags
    text = results.table(records, "s4", data, "latex")
    assert re.findall(r"^ *\\(\w+rule)$", text, re.MULTILINE) == ["toprule", "midrule", "bottomrule"]
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + len(body)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(header) - 1}
    assert text.count("{") == text.count("}") and text.count(r"\begin{") == text.count(r"\end{") == 2
    assert r"a\_b \& \textless{}c\textgreater{} 5\%" in text and "±" not in text
    assert not re.search(r"(?<!\\)[_#^~]|[^ -~\n]", text), "no bare special character and nothing but ASCII"


def test_frame_has_a_row_for_each_split_of_a_run_and_its_baselines(tmp_path):
    baselines = {"audio shuffled": {"test": {"J": 0.2}}}
    saved(tmp_path, *(record(seed, j, baselines=baselines) for seed, j in enumerate((0.4, 0.6))))
    scores = results.frame(tmp_path)
    assert len(scores) == 2 * (3 + 1) and {"task", "method", "variant", "F", "F_legacy@8"} <= set(scores)
    means = scores[scores.split == "test"].groupby("baseline").J.mean()
    assert means.to_dict() == pytest.approx({"": 0.5, "audio shuffled": 0.2}) and scores.variant.nunique() == 1


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False) | st.text() | st.booleans(), max_size=5))
def test_config_hash_sees_values_and_not_their_order(config):
    assert run_records.config_hash(dict(reversed(config.items()))) == run_records.config_hash(config)
    assert run_records.config_hash(config | {"new field": 1}) != run_records.config_hash(config)


def test_variant_hash_ignores_seed_and_place_only():
    base = {"train": {"seed": 0, "lr": 1.0}, "data": {"root": "a", "task": "s4"}}
    moved = {"train": {"seed": 1, "lr": 1.0}, "data": {"root": "b", "task": "s4"}}
    assert run_records.variant_hash(base) == run_records.variant_hash(moved)
    assert run_records.variant_hash(base) != run_records.variant_hash(base | {"train": {"seed": 0, "lr": 2.0}})
    assert base["train"]["seed"] == 0


def test_a_fresh_configuration_is_the_variant_of_the_committed_runs():
    """A field added to the configuration later must not part new runs from the committed rows."""
    from avslib.config import load_config
    from avslib.study.demo import CHANGES, START
    from course.committed import committed_runs

    committed = [
        r for r in run_records.load_records(committed_runs()) if r.data == "mini" and r.config["preset"] == "demo"
    ]
    # earlier runs on MS3 fused over the clip
    starts = {name for arms in START.values() for name in arms.values()}
    committed = [r for r in committed if r.task == "s4" or r.config["train"]["init_from"].startswith("mini-ms3")]
    assert committed and {r.config["train"]["init_from"] for r in committed} <= starts
    for record in committed:
        audio = record.config["model"]["use_audio"]
        own = {"data.task": record.task, "model.use_audio": audio} | CHANGES[record.task]
        fresh = load_config("demo", own | {"train.init_from": START[record.task][audio]})
        assert run_records.variant_hash(fresh.model_dump(mode="json")) == run_records.variant_hash(record.config)
