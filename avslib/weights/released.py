"""The weights of the release: recognised by their names, renamed to ours, and kept as a checkpoint of this package.

Nothing here distributes or downloads them; a file that the user has is read, tensors only.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avslib.config import load_config
from avslib.core.checkpoints import ASSETS
from avslib.core.errors import UsageError, WeightsError
from avslib.core.parsing import first_line, parse_yaml
from avslib.core.tensors import plain_tensor, read_state_dict
from avslib.models.ecmvae import ECMVAE
from avslib.weights.checkpoints import save_checkpoint

# released backbones, by the start of a name that only they have
BACKBONES = {"pvt_v2_b5": "encoder.patch_embed1.", "resnet50": "encoder.layer1."}
# in the released state dict but never used by its forward pass
UNUSED = r"audio_neck\.|decoder_(prior|post)\.fusion_block_1\.resConfUnit1\."


def convert_official(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our state dict for a released one, and the released names that no forward pass uses and that are left out.

    A ``module.`` prefix is dropped. Names that are not ECMVAE's remain.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    file = ASSETS / "released_names.yaml"
    renames = parse_yaml(file.read_text(encoding="utf-8"), file.name, WeightsError)
    converted, unused = {}, [name for name in state if re.match(UNUSED, name)]
    for name in (name for name in state if name not in unused):
        value, ours = state[name], name
        for pattern, replacement in renames.items():
            ours = re.sub(pattern, replacement, ours)
        # 1x1x1 convolutions of the fusion are linear layers here
        inner = ours.startswith("fusion.") and value.shape[2:] == (1, 1, 1)
        converted[ours] = value.flatten(1) if inner else value
    return converted, unused


def load_official(source: str | Path | Mapping[str, Tensor], backbone: str = "auto") -> ECMVAE:
    """The full model with the released weights, in eval mode, under preset ``paper``: all losses in the released form.

    Args:
        source: path of the released ``.pth``, or its content: the state dict, bare or beside what training scripts
            save with it (optimizer state, epoch, arguments), under any key.
        backbone: ``pvt_v2_b5``, ``resnet50`` or ``auto``, inferred from the names.

    Raises AvsError: unreadable file, unknown names, missing names, other shapes; the first of them is named.
    """
    state = read_state_dict(source) if isinstance(source, (str, Path)) else source
    if not isinstance(state, Mapping):
        raise WeightsError(f"released weights: expected a path or a state dict, got {type(state).__name__}")
    state = _unwrap(state)
    for k, v in state.items():
        if not isinstance(k, str) or not (isinstance(v, np.ndarray) or plain_tensor(v)):
            found = f"entry {first_line(repr(k))} holds {type(v).__name__}"
            raise WeightsError(f"released weights: {found}; expected plain tensors under text names and nothing else")
    state = {k.removeprefix("module."): torch.as_tensor(v) for k, v in state.items()}
    if backbone == "auto":
        backbone = next((b for b, start in BACKBONES.items() if any(k.startswith(start) for k in state)), "")
        if not backbone:
            why = f"no name starts with {' or '.join(map(repr, BACKBONES.values()))}"
            raise WeightsError(f"these weights are not ECMVAE's: {why}; give the state dict as released")
    if backbone not in BACKBONES:
        known = " and ".join(BACKBONES)
        raise UsageError(f"backbone {backbone!r}: released weights exist for {known}; use one of them or 'auto'")
    model = ECMVAE(load_config("paper", {"model.backbone": backbone, "model.pretrained": False}))
    model.load_weights(convert_official(state)[0], "the released weights")
    return model.eval()


def import_official(
    source: str | Path, out: str | Path, backbone: str = "auto", task: str = "auto", audio_weights: str | None = None
) -> list[str]:
    """Keep released weights as a checkpoint folder; returns the names that :func:`convert_official` leaves out.

    Args:
        source: the released ``.pth``.
        out: folder to write ``model.safetensors`` and ``config.yaml`` into.
        backbone: as in :func:`load_official`.
        task: ``s4`` or ``ms3``. The names are the same for both; ``auto`` looks for either in the file's name.
        audio_weights: VGGish's weights, written into the configuration, so that the checkpoint scores and predicts.

    Raises AvsError: see :func:`load_official`; or the file's name does not give the task.
    """
    source = Path(source)
    if task == "auto":
        named = [t for t in ("s4", "ms3") if re.search(rf"(?<![a-z0-9]){t}(?![a-z0-9])", source.name.lower())]
        if len(named) != 1:
            why = "S4 and MS3 weights have the same tensors, and the file's name does not say which these are"
            raise UsageError(f"{source.name}: {why}; give --task s4 or --task ms3")
        task = named[0]
    state = read_state_dict(source)
    model = load_official(state, backbone)
    model.config = model.config.replace({"data.task": task, "model.audio_weights": audio_weights})
    save_checkpoint(out, model, replace=False)
    return convert_official(_unwrap(state))[1]


def _unwrap(state: Mapping, depth: int = 3) -> Mapping:
    """The mapping in which ECMVAE's names stand: `state`, or the first inside it; `state` where none has them."""

    def has_encoder(state: Mapping) -> bool:
        return any(str(name).removeprefix("module.").startswith("encoder.") for name in state)

    if not has_encoder(state) and depth:
        inner = (_unwrap(value, depth - 1) for value in state.values() if isinstance(value, Mapping))
        return next(filter(has_encoder, inner), state)
    return state
