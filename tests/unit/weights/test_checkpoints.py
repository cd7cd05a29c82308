"""Checkpoints come back to the bit, and weights that are broken, foreign or hostile are refused in a sentence."""

import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, RepoUrl

from avslib.audio.vggish import VGGish, import_vggish, load_vggish
from avslib.config import load_config
from avslib.core.errors import AvsError
from avslib.models import ECMVAE
from avslib.weights.checkpoints import CONFIG, WEIGHTS, load_checkpoint, load_weights, save_checkpoint
from avslib.weights.released import convert_official, import_official, load_official
from tests.helpers.reference import GOLDEN

SMALL = {
    "model.backbone": "resnet18",
    "model.pretrained": False,
    "model.image_size": 64,
    "model.channels": 8,
    "model.latent_dim": 4,
    "model.image_encoder_channels": [4] * 5,
    "model.map_encoder_channels": [4] * 5,
}


def released(backbone):
    """Tensors of the released names and shapes, each filled with its position; they take no memory."""
    names = json.loads((GOLDEN / f"official_{backbone}_state_dict.json").read_text(encoding="utf-8"))
    return {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(names)}


# ---- the converter


@pytest.mark.parametrize("backbone", ["resnet", "pvt"])
def test_every_released_name_is_converted_or_known_to_be_unused(backbone):
    state = released(backbone)
    converted, unused = convert_official(state)
    assert len(converted) + len(unused) == len(state)
    assert {name.partition(".")[0] if name.startswith("audio_neck") else name.split(".")[2] for name in unused} == {
        "audio_neck",
        "resConfUnit1",
    }


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"optimizer": {"state": {0: {"step": torch.zeros(1)}}}, "checkpoint": {"net": s}},
    ],
    ids=["state_dict", "nested beside an optimizer"],
)
def test_wrapped_and_prefixed_weights_load_from_a_file(tmp_path, wrap):
    state = released("resnet")
    torch.save(wrap({f"module.{k}": v for k, v in state.items()}), tmp_path / "weights.pth")
    model = load_official(tmp_path / "weights.pth")
    assert model.config.model.backbone == "resnet50" and not model.training
    for ours, theirs in {
        "backbone.net.layer1.0.conv1.weight": "encoder.layer1.0.conv1.weight",
        "fusion.3.output.weight": "fusion_modules.3.W_z.0.weight",
        "posterior.encode_sv.head.logvar.bias": "mm_vae_model.enc_vs_y.fc2.bias",
        "prior.encode_c.vector.weight": "mm_vae_model.enc_vac.fc_gt_vector.weight",
        "prior.fuse_a.weight": "mm_vae_model.sc2_prior.weight",
        "posterior.neck.levels.2.0.weight": "neck_post.conv_list.2.reduce.0.conv.weight",
    }.items():
        assert (model.state_dict()[ours] == state[theirs].flatten()[0]).all(), ours


@pytest.mark.parametrize(
    "change, said",
    [
        ({"encoder.layer9.weight": torch.zeros(1), "surprise": torch.zeros(1)}, "surprise"),
        ({"fusion_modules.0.theta.bias": None}, r"fusion\.0\.theta\.bias is missing"),
        ({"fusion_modules.0.theta.bias": torch.zeros(3)}, r"fusion\.0\.theta\.bias has shape \(3,\), expected \(64,\)"),
        ({"fusion_modules.0.theta.bias": "text"}, r"'fusion_modules\.0\.theta\.bias' holds str"),
        ({5: torch.zeros(3)}, "entry 5"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, said):
    state = {k: v for k, v in (released("resnet") | change).items() if v is not None}
    with pytest.raises(AvsError, match=said):
        load_official(state)


@pytest.mark.parametrize(
    "source, said",
    [
        ({}, "not ECMVAE's"),
        ({"features.0.weight": torch.zeros(1)}, "not ECMVAE's"),
        (3, "expected a path or a state dict"),
    ],
)
def test_foreign_states_are_refused(source, said):
    with pytest.raises(AvsError, match=said):
        load_official(source)


def test_unknown_backbone_lists_the_released_ones():
    with pytest.raises(AvsError, match="pvt_v2_b5 and resnet50"):
        load_official(released("resnet"), "swin")


def test_imported_weights_are_a_checkpoint_and_the_task_comes_from_the_name(tmp_path):
    path = tmp_path / "MS3_resnet.pth"
    torch.save(released("resnet"), path)
    unused = import_official(path, tmp_path / "out", audio_weights="vggish.safetensors")
    model, direct = load_checkpoint(tmp_path / "out"), load_official(path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), direct.parameters(), strict=True)) and unused
    assert (model.config.data.task, model.config.model.audio_weights) == ("ms3", "vggish.safetensors")
    for name in ("best.pth", "mmvae_bs4_best.pth", "s4ms3.pth", "v2s4.pth", "s4_and_ms3.pth"):  # bs4: a batch size
        path = path.rename(tmp_path / name)
        with pytest.raises(AvsError, match="give --task"):
            import_official(path, tmp_path / "other")


def test_the_folder_of_a_run_names_its_checkpoint(model, tmp_path):
    save_checkpoint(tmp_path / "run/best", model)
    with pytest.raises(AvsError, match=r"the folder of a run; name its checkpoint, .*best"):
        load_checkpoint(tmp_path / "run")


def test_vggish_weights_are_kept_as_safetensors(tmp_path):
    torch.save({"pproc.pca": torch.zeros(2)} | VGGish().state_dict(), tmp_path / "vggish.pth")
    kept = load_vggish(import_vggish(tmp_path / "vggish.pth", tmp_path / "w" / "vggish.safetensors"))
    assert torch.equal(kept.embeddings[0].weight, load_vggish(tmp_path / "vggish.pth").embeddings[0].weight)
    with pytest.raises(AvsError, match=r"ends in \.safetensors"):
        import_vggish(tmp_path / "vggish.pth", tmp_path / "vggish.pt")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path):
    torch.save({"encoder.layer1.0.conv1.weight": Hostile(tmp_path / "ran")}, tmp_path / "weights.pth")
    with pytest.raises(AvsError, match="refused"):
        load_official(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(100)], ids=["empty", "text", "zip"])
def test_files_that_are_no_weights_are_refused(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(AvsError, match=r"weights\.pth"):
        load_official(tmp_path / "weights.pth")
    with pytest.raises(AvsError, match="no such file"):
        load_official(tmp_path / "none.pth")


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "weights.pth")
    with pytest.raises(AvsError, match="found list"):
        load_official(tmp_path / "weights.pth")


# ---- our checkpoints


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ECMVAE(load_config("mini", SMALL)).eval()


def logits(model):
    generator = torch.Generator().manual_seed(0)
    image, audio = torch.randn(2, 3, 64, 64, generator=generator), torch.rand(2, 128, generator=generator)
    with torch.inference_mode():
        return model(image, audio, frames=2).logits


def test_a_checkpoint_comes_back_to_the_bit(model, tmp_path):
    folder = save_checkpoint(tmp_path / "höher" / "best", model)
    assert sorted(p.name for p in folder.iterdir()) == sorted([CONFIG, WEIGHTS])
    again, by_file = load_checkpoint(folder), load_checkpoint(folder / WEIGHTS)
    assert again.config == model.config and not again.training
    assert torch.equal(logits(again), logits(model)) and torch.equal(logits(by_file), logits(model))


def test_half_a_checkpoint_is_close(model, tmp_path):
    whole, half = save_checkpoint(tmp_path / "a", model), save_checkpoint(tmp_path / "b", model, half=True)
    assert (half / WEIGHTS).stat().st_size < 0.52 * (whole / WEIGHTS).stat().st_size
    again = load_checkpoint(half)
    assert {v.dtype for v in again.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(again), logits(model), rtol=0.01, atol=0.01)


def test_half_keeps_what_float16_cannot_hold(tmp_path):
    wide = ECMVAE(load_config("mini", SMALL))
    wide.backbone.net.bn1.running_var.fill_(1e6)
    assert (load_checkpoint(save_checkpoint(tmp_path, wide, half=True)).backbone.net.bn1.running_var == 1e6).all()


@pytest.mark.parametrize("keep", [0, 4, 20, 5000, -1])
def test_truncated_weights_are_refused(model, tmp_path, keep):
    save_checkpoint(tmp_path, model)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[:keep])
    with pytest.raises(AvsError, match="not a complete safetensors file"):
        load_checkpoint(tmp_path)


def test_a_released_file_as_checkpoint_names_the_command_that_imports_it(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pth")
    with pytest.raises(AvsError, match=r"model\.pth: .*avs weights import"):
        load_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"model.channels": 16}, r"resnet18 with 16 channels.*has shape"),
        ({"model.backbone": "convnext_atto"}, r"convnext_atto.*missing"),
        ({"model.neck": "aspp"}, "is missing"),
    ],
)
def test_weights_of_another_architecture_are_refused(model, tmp_path, change, said):
    save_checkpoint(tmp_path, model)
    other = ECMVAE(model.config.replace(change))
    save_checkpoint(tmp_path / "other", other)
    (tmp_path / "other" / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes())
    with pytest.raises(AvsError, match=said):
        load_checkpoint(tmp_path / "other")


def test_chosen_modules_are_taken_and_the_rest_starts_new(model, tmp_path):
    save_checkpoint(tmp_path, model)
    torch.manual_seed(1)
    other = ECMVAE(model.config.replace({"model.latent": "none"}))
    before = {k: v.clone() for k, v in other.state_dict().items()}
    load_weights(other, tmp_path, ["neck", "fusion"])
    mine, theirs = other.state_dict(), model.state_dict()
    taken = {k for k in mine if k.startswith(("fusion.", "prior.neck."))}
    assert taken and all(torch.equal(mine[k], theirs[k]) for k in taken)
    assert all(torch.equal(mine[k], before[k]) for k in mine.keys() - taken)


@pytest.mark.parametrize(
    ("change", "modules", "said"),
    [
        ({}, ["nek"], "no module 'nek'; it has backbone.*encode_sv.*decoder"),
        ({"model.fusion": "correlation_gate"}, ["fusion"], "fusion.0.bias is missing"),
        ({"model.channels": 12}, ["neck"], "expected"),
    ],
)
def test_modules_that_the_weights_lack_are_named(model, tmp_path, change, modules, said):
    save_checkpoint(tmp_path, model)
    with pytest.raises(AvsError, match=said):
        load_weights(ECMVAE(model.config.replace(change)), tmp_path, modules)


def test_a_checkpoint_needs_its_config(model, tmp_path):
    save_checkpoint(tmp_path, model)
    (tmp_path / CONFIG).unlink()
    with pytest.raises(AvsError, match=r"config\.yaml is missing beside it"):
        load_checkpoint(tmp_path)
    with pytest.raises(AvsError, match="no such file"):
        load_checkpoint(tmp_path / "none")


# ---- the Hub's interface


def test_save_and_from_pretrained_round_trip_to_the_bit(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    again = ECMVAE.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), logits(model)) and again.config == model.config and not again.training
    assert "No scores were saved" in (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")


def test_the_model_card_holds_the_scores_that_are_given(model, tmp_path):
    model.save_pretrained(tmp_path, model_card_kwargs={"scores": "| J | 0.5 |"})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "library_name: avslib" in card and "| J | 0.5 |" in card


def test_push_uploads_what_save_writes(model, monkeypatch):
    pushed = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: RepoUrl(f"https://huggingface.co/{repo_id}"))
    monkeypatch.setattr(
        HfApi,
        "upload_folder",
        lambda self, folder_path, **_: pushed.update({p.name: p.stat().st_size for p in Path(folder_path).iterdir()}),
    )
    model.push_to_hub("someone/ecmvae", token="none")
    assert set(pushed) == {CONFIG, WEIGHTS, "README.md"} and min(pushed.values()) > 0


@pytest.mark.parametrize("source", ["someone/not-there", "not a name"])
def test_what_the_hub_does_not_give_is_named_with_the_shipped_ones(source):
    with pytest.raises(AvsError, match=r"no such folder, not one of the shipped checkpoints .*mini-s4"):
        ECMVAE.from_pretrained(source, local_files_only=True)
