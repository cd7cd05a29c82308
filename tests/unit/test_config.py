"""Presets and overrides: what is read, what is refused, and what the refusal says."""

import pytest
import yaml

from avslib.config import Config, field_types, load_config, preset_names
from avslib.core.errors import AvsError


@pytest.mark.parametrize("name", preset_names())
def test_presets_load_and_name_themselves(name):
    assert load_config(name).preset == name


def test_preset_paper_is_the_defaults_and_the_released_forms():
    paper = load_config("paper")
    assert paper == Config()
    assert {
        paper.loss.structure_weighting,
        paper.loss.kl_scale,
        paper.loss.divergence_c,
        paper.loss.mi_bound,
        paper.data.flip,
    } == {"official"}
    assert (paper.train.optimizer, paper.train.lr, paper.train.batch_size, paper.train.seed) == ("adam", 1e-4, 4, 1234)


def test_preset_mini_has_every_corrected_form():
    mini = load_config("mini")
    assert "official" not in (
        mini.loss.structure_weighting,
        mini.loss.kl_scale,
        mini.loss.divergence_c,
        mini.loss.mi_bound,
        mini.data.flip,
    )


def test_every_field_is_described():
    for section, info in Config.model_fields.items():
        assert info.description
        for name, field in getattr(info.annotation, "model_fields", {}).items():
            assert field.description and f"{section}.{name}" in field_types()


@pytest.mark.parametrize(
    "override, value",
    [
        ("train.epochs=3", 3),
        ("train.lr=1e-3", 1e-3),
        ("train.clip_grad=null", None),
        ("data.root=my data", "my data"),
        ("model.use_audio=false", False),
        ("model.pretrained=weights.pth", "weights.pth"),
        ("loss.mi=0", 0.0),
        ("model.map_encoder_channels=[1, 2, 3, 4, 5]", (1, 2, 3, 4, 5)),
        ("data.root=a=b", "a=b"),
        ("train.precision=no", "no"),
        ("train.seed=010", 10),
        ("data.root=/data/mini #2", "/data/mini #2"),
        ("data.root= [a: b", " [a: b"),
        ("data.root=12:30", "12:30"),
        ("data.root=1_000", "1_000"),
        ("data.root=no", "no"),
        ("data.root=null", None),
        ('data.root="null"', "null"),
        ("model.pretrained=on", "on"),
        ("model.use_audio=off", False),
        ("train.clip_grad=1e-3", 1e-3),
        ("data.max_clips=08", 8),
    ],
)
def test_an_override_is_read_by_the_type_of_its_field(override, value):
    section, field = override.partition("=")[0].split(".")
    assert getattr(getattr(load_config("mini", [override]), section), field) == value


def test_modules_are_a_list_of_text():
    overrides = ["train.init_from=mini-s4", "train.init_modules=[neck, no, 010]"]
    assert load_config("mini", overrides).train.init_modules == ("neck", "no", "010")


def test_a_section_in_braces_changes_the_fields_that_it_has():
    assert load_config("mini", ["train={epochs: 3}"]) == load_config("mini", ["train.epochs=3"])


def test_a_file_has_the_plain_words_of_yaml_1_2(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {precision: no, seed: 010}\ndata: {root: 2026-01-01, skip: 1:30}\n")
    config = load_config(tmp_path / "a.yaml")
    assert (config.train.precision, config.train.seed, config.data.root, config.data.skip) == (
        "no",
        10,
        "2026-01-01",
        "1:30",
    )


def test_later_overrides_win_and_the_rest_stays():
    config = load_config("mini", ["train.epochs=3", "train.epochs=7"])
    assert config.train.epochs == 7 and config.train.lr == load_config("mini").train.lr
    assert config.replace({"train.epochs": 2}) == config.replace(["train.epochs=2"]) != config


def test_round_trip_through_yaml(tmp_path):
    config = load_config("mini", ["train.epochs=3", "data.root=ä b", "model.pretrained=false"])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    assert load_config(path) == config


def test_a_file_extends_a_preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: mini\npreset: mine\ntrain:\n  epochs: 9\n", encoding="utf-8")
    assert load_config(path) == load_config("mini", {"preset": "mine", "train.epochs": 9})


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        load_config("mini").train.epochs = 3


@pytest.mark.parametrize(
    "override, said",
    [
        ("train.epoch=3", "'train.epoch'. Did you mean 'train.epochs'"),
        ("epochs=3", "Did you mean 'train.epochs'"),
        ("loss.orthoganality=1", "Did you mean 'loss.orthogonality'"),
        ("zzz.qqq=1", "Fields are preset, model.backbone"),
        ("train.epochs=many", r"train\.epochs.*integer.*'many'"),
        ("train.epochs=2.5", r"train\.epochs.*2\.5"),
        ("train.epochs=0", r"train\.epochs.*greater than or equal to 1"),
        ("train.lr=.nan", r"train\.lr"),
        ("data.flip_probability=2", "less than or equal to 1"),
        ("model.image_size=100", r"model\.image_size.*multiple of 32"),
        ("model.image_encoder_channels=[8, 8]", r"model\.image_encoder_channels"),
        ("loss.divergence_c=js", "'geometric_js'"),
        ("train=3", "train: "),
        ("train.epochs", r"expected section\.field=value"),
        ("model.map_encoder_channels=[", "not valid YAML"),
        ("train.epochs=0x10", r"train\.epochs.*'0x10'"),
        ("train.epochs=null", r"train\.epochs.*integer"),
        ("train.clip_grad=~", r"train\.clip_grad.*'~'"),
        ("model.use_audio=maybe", r"model\.use_audio.*boolean"),
        ("model.audio_dim=64", r"model\.audio_dim.*128"),
    ],
)
def test_bad_overrides_are_reported_in_one_line(override, said):
    with pytest.raises(AvsError, match=said) as caught:
        load_config("mini", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, said",
    [
        ("- 1\n- 2", "sections such as 'train:'"),
        ("train: [", "not valid YAML"),
        ("train:\n  steps: 3", r"unknown field 'train\.steps'"),
        ("model: 3", "model: "),
        ("extends: nothing", "extends 'nothing'; expected a preset"),
        ("!!python/object/apply:os.system ['echo unsafe']", "not valid YAML"),
    ],
)
def test_bad_files_are_named(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AvsError, match=said):
        load_config(path)


def test_missing_file_lists_the_presets(tmp_path):
    with pytest.raises(AvsError, match=r"presets are .*mini, paper"):
        load_config(tmp_path / "none.yaml")
