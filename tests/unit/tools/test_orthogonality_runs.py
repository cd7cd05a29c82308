"""The four runs of lesson 07 as they are committed, and what happens where they are missing."""

import pytest
import torch

from avslib.core.errors import AvsError
from course.committed import committed_variant
from tools.orthogonality_runs import VARIANTS, load_variant, train_variant, variant_config


def sd_of(code):
    return code.replace("_y", "") + "_sd" + "_y" * code.endswith("_y")


def test_committed_runs_differ_only_in_two_weights():
    runs = {name: load_variant(committed_variant(name)) for name in VARIANTS}
    rest = []
    for name, run in runs.items():
        config = {section: dict(v) if isinstance(v, dict) else v for section, v in run.record.config.items()}
        assert (config["loss"].pop("orthogonality"), config["loss"].pop("mi")) == VARIANTS[name]
        rest.append(config)
        rows = run.codes["clip"]
        assert len(rows) == 5 * run.record.dataset.clips["test"]
        for code in ("s_v", "s_a", "c", "s_v_y", "s_a_y", "c_y"):
            assert run.codes[code].shape == run.codes[sd_of(code)].shape == (len(rows), 16)
            assert run.codes[code].isfinite().all() and (run.codes[sd_of(code)] >= 0).all()
    assert all(config == rest[0] for config in rest)
    assert len({run.record.id for run in runs.values()}) == len(VARIANTS)
    assert all(run.record.git.dirty is False for run in runs.values())


def test_committed_config_is_that_of_the_command():
    record = load_variant(committed_variant("both")).record
    config = variant_config("both", "build/data/mini-small").model_dump(mode="json")
    # fields that came into the configuration later are not in the record
    known = {k: {f: config[k][f] for f in v} if isinstance(v, dict) else config[k] for k, v in record.config.items()}
    assert record.config == known and config["loss"]["orthogonality"] == 0.3


def test_missing_and_damaged_runs_are_named(tmp_path):
    with pytest.raises(AvsError, match=r"missing.*TRAIN = True"):
        load_variant(tmp_path)
    for name in ("run.json", "history.csv"):
        (tmp_path / name).write_bytes((committed_variant("base") / name).read_bytes())
    (tmp_path / "codes.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(AvsError, match=r"damaged.*restore it"):
        load_variant(tmp_path)
    with pytest.raises(AvsError, match="the variants are base, orth, mi, both"):
        variant_config("bothh", tmp_path)


@pytest.mark.long
def test_training_leaves_what_is_loaded(tmp_path, mini_data):
    run = train_variant("both", mini_data, tmp_path / "both", epochs=1)
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == ["codes.safetensors", "history.csv", "run.json"]
    assert torch.isfinite(run.codes["c"]).all()
