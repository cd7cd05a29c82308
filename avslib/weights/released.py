"""The weights of the release: told by their names, renamed to ours, and kept as a checkpoint of this package.

Nothing here distributes or downloads them; a file that the user has is read, tensors alone.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avslib.config import load_config
from avslib.core.checkpoint_format import listed
from avslib.core.errors import UsageError, WeightsError
from avslib.core.parsing import first_line
from avslib.core.tensors import plain_tensor, read_state_dict
from avslib.models.ecmvae import ECMVAE
from avslib.weights.checkpoints import save_checkpoint

_ENCODER = {"vs": "encode_sv", "as": "encode_sa", "vac": "encode_c"}
_LAYER = {"fc1": "head.mu", "fc2": "head.logvar", "fc_gt_vector": "vector"}
_HEAD = {"0": "in", "2": "mid", "4": "out"}
_MI = {"mu": "mu", "logvar": "logvar", "sc_a": "target"}


def _branch(which: str | None) -> str:
    return "posterior" if which in ("post", "posterior", "_y") else "prior"


def _decoder(m: re.Match) -> str:
    block = int(m[2])
    unit = f"skip.{block - 2}" if m[3] == "1" else f"refine.{block - 1}"
    return f"{_branch(m[1])}.decoder.{unit}.layers.{3 * (int(m[4]) - 1) + (m[5] == 'norm')}."


# start of a released name -> start of ours: a template, or a function of the match
_RULES = [
    (r"fusion_modules\.(\d)\.(theta|phi|g)\.", r"fusion.\1.\2."),
    (r"fusion_modules\.(\d)\.W_z\.0\.", r"fusion.\1.output."),
    (r"fusion_modules\.(\d)\.W_z\.1\.", r"fusion.\1.batch_norm."),
    (r"fusion_modules\.(\d)\.norm_layer\.", r"fusion.\1.layer_norm."),
    (
        r"neck_(prior|post)\.conv_list\.(\d)\.reduce\.(\d)\.(conv|norm)\.",
        lambda m: f"{_branch(m[1])}.neck.levels.{m[2]}.{2 * int(m[3]) + (m[4] == 'norm')}.",
    ),
    (r"decoder_(prior|post)\.fusion_block_(\d)\.resConfUnit(\d)\.ConvBNReLU(\d)\.(conv|norm)\.", _decoder),
    (
        r"decoder_(prior|post)\.head_up_2\.output_conv\.([024])\.",
        lambda m: f"{_branch(m[1])}.decoder.head_{_HEAD[m[2]]}.",
    ),
    (
        r"mm_vae_model\.enc_(vs|as|vac)(_y)?\.(layer|bn)(\d)\.",
        lambda m: f"{_branch(m[2])}.{_ENCODER[m[1]]}.trunk.layers.{3 * (int(m[4]) - 1) + (m[3] == 'bn')}.",
    ),
    (
        r"mm_vae_model\.enc_(vs|as|vac)(_y)?\.(fc1|fc2|fc_gt_vector)\.",
        lambda m: f"{_branch(m[2])}.{_ENCODER[m[1]]}.{_LAYER[m[3]]}.",
    ),
    (r"mm_vae_model\.sc([12])_(prior|posterior)\.", lambda m: f"{_branch(m[2])}.fuse_{'va'[int(m[1]) - 1]}."),
    (r"mm_vae_model\.noise_model_(prior|post)\.noise_conv\.", lambda m: f"{_branch(m[1])}.inject.conv."),
    (r"mm_vae_model\.ba_lower_bound_(mu|logvar|sc_a)_(prior|post)\.", lambda m: f"{_branch(m[2])}.mi_{_MI[m[1]]}."),
]
_BACKBONES = {
    "pvt_v2_b5": [
        (r"encoder\.patch_embed1\.", "backbone.net.patch_embed."),
        (r"encoder\.patch_embed([234])\.", lambda m: f"backbone.net.stages_{int(m[1]) - 1}.downsample."),
        (
            r"encoder\.block(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.",
            lambda m: f"backbone.net.stages_{int(m[1]) - 1}.blocks.{m[2]}.mlp.dwconv.",
        ),
        (r"encoder\.block(\d)\.(\d+)\.", lambda m: f"backbone.net.stages_{int(m[1]) - 1}.blocks.{m[2]}."),
        (r"encoder\.norm(\d)\.", lambda m: f"backbone.net.stages_{int(m[1]) - 1}.norm."),
    ],
    "resnet50": [(r"encoder\.", "backbone.net.")],
}
# in the released state dict but never used by its forward pass
_UNUSED = r"audio_neck\.|decoder_(prior|post)\.fusion_block_1\.resConfUnit1\."


def _rename(name: str, backbone: str) -> str | None:
    """Our name for a released one; None when unknown."""
    for pattern, target in _RULES + _BACKBONES[backbone]:
        match = re.match(pattern, name)
        if match:
            return (target(match) if callable(target) else match.expand(target)) + name[match.end() :]
    return None


def detect_backbone(names: list[str]) -> str:
    """Which of the two released backbones a state dict belongs to."""
    if any(n.startswith("encoder.patch_embed1.") for n in names):
        return "pvt_v2_b5"
    if any(n.startswith("encoder.layer1.") for n in names):
        return "resnet50"
    raise WeightsError(
        "these weights are not ECMVAE's: neither 'encoder.patch_embed1.' (PVTv2-B5) nor 'encoder.layer1.' "
        "(ResNet-50) is among their names; give the state dict as released"
    )


def convert_official(state: Mapping[str, Tensor], backbone: str = "auto") -> tuple[dict[str, Tensor], list[str]]:
    """Rename a released state dict.

    Args:
        state: names as released; a ``module.`` prefix is dropped.
        backbone: ``pvt_v2_b5``, ``resnet50`` or ``auto`` (told from the names).

    Returns:
        our state dict, and the released names that no forward pass uses and that are therefore left out.

    Raises:
        AvsError: a name that is neither known nor known to be unused.
    """
    state = {k.removeprefix("module."): v for k, v in state.items()}
    backbone = detect_backbone(list(state)) if backbone == "auto" else backbone
    if backbone not in _BACKBONES:
        raise UsageError(
            f"backbone {backbone!r}: released weights exist for {' and '.join(_BACKBONES)}; use one of them or 'auto'"
        )
    converted, unused, unknown = {}, [], []
    for name, value in state.items():
        target = _rename(name, backbone)
        if re.match(_UNUSED, name):
            unused.append(name)
        elif target is None:
            unknown.append(name)
        else:
            # 1x1x1 convolutions of the fusion are linear layers here
            inner = name.startswith("fusion_modules") and tuple(value.shape[2:]) == (1, 1, 1)
            converted[target] = value.flatten(1) if inner else value
    if unknown:
        raise WeightsError(
            f"{len(unknown)} names in the weights are not ECMVAE's: {listed(unknown)}; give the state dict as released"
        )
    return converted, unused


def import_official(
    source: str | Path, out: str | Path, backbone: str = "auto", task: str = "auto", audio_weights: str | None = None
) -> list[str]:
    """Keep released weights as a checkpoint folder of this package: safetensors and preset ``paper``'s configuration.

    Args:
        source: the released ``.pth``.
        out: folder to write ``model.safetensors`` and ``config.yaml`` into.
        backbone: ``pvt_v2_b5``, ``resnet50`` or ``auto``, told from the names.
        task: ``s4`` or ``ms3``. The names are the same for both; ``auto`` looks for either in the file's name.
        audio_weights: VGGish's weights, written into the configuration, so that the checkpoint scores and predicts.

    Returns:
        the released names that no forward pass uses and that are left out.

    Raises:
        AvsError: see :func:`load_official`; or a task that the file's name does not tell.
    """
    source = Path(source)
    if task == "auto":
        named = [t for t in ("s4", "ms3") if t in source.name.lower()]
        if len(named) != 1:
            raise UsageError(
                f"{source.name}: S4 and MS3 weights have the same tensors, and the file's name does not "
                "tell which these are; give --task s4 or --task ms3"
            )
        task = named[0]
    state = read_state_dict(source)
    model = load_official(state, backbone)
    model.config = model.config.replace({"data.task": task, "model.audio_weights": audio_weights})
    save_checkpoint(out, model, replace=False)
    return convert_official(_unwrap(state), model.config.model.backbone)[1]


def load_official(source: str | Path | Mapping[str, Tensor], backbone: str = "auto") -> ECMVAE:
    """The full model with the released weights, in eval mode.

    Args:
        source: path of the released ``.pth``, or its content: the state dict, bare or beside what training scripts
            save with it (optimizer state, epoch, arguments), under any key.
        backbone: ``pvt_v2_b5``, ``resnet50`` or ``auto``.

    Returns:
        A model whose ``config`` is preset ``paper`` with that backbone: all loss terms in their official form.

    Raises:
        AvsError: unreadable file, unknown names, missing names, other shapes; the first of them is named.
    """
    state = read_state_dict(source) if isinstance(source, (str, Path)) else source
    if not isinstance(state, Mapping):
        raise WeightsError(f"released weights: expected a path or a state dict, got {type(state).__name__}")
    state = _unwrap(state)
    for k, v in state.items():
        if not isinstance(k, str) or not (isinstance(v, np.ndarray) or plain_tensor(v)):
            raise WeightsError(
                f"released weights: entry {first_line(repr(k))} holds {type(v).__name__}; expected "
                "plain tensors under text names, the state dict alone"
            )
    converted, _ = convert_official({k: torch.as_tensor(v) for k, v in state.items()}, backbone)
    name = detect_backbone([k.removeprefix("module.") for k in state]) if backbone == "auto" else backbone
    model = ECMVAE(load_config("paper", {"model.backbone": name, "model.pretrained": False}))
    model.load_weights(converted, "the released weights")
    return model.eval()


def _unwrap(state: Mapping, depth: int = 3) -> Mapping:
    """The mapping in which ECMVAE's names stand: `state`, or the first inside it; `state` where none has them."""
    if not _has_encoder(state) and depth:
        inner = (_unwrap(value, depth - 1) for value in state.values() if isinstance(value, Mapping))
        return next(filter(_has_encoder, inner), state)
    return state


def _has_encoder(state: Mapping) -> bool:
    return any(str(name).removeprefix("module.").startswith("encoder.") for name in state)
