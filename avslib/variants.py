"""Variants of the model and the objective: a name and the fields that it sets in a preset.

``avs train``, ``avs ablate``, lesson 12 and Python train the same variants::

    config = load_config("mini").replace(variant("without_orthogonality"))

Fields that take any value need no entry, such as ``model.latent_dim`` and ``train.init_from``. ``official`` is the
released code's form of a loss; preset ``paper`` starts from the released forms, preset ``mini`` from the corrected
ones. A variant sets the same fields in every preset.
"""

import difflib
from importlib import resources
from typing import Any, get_args

from avslib.config import Config, LossConfig, ModelConfig, load_config, preset_names
from avslib.core.errors import ConfigError, UsageError
from avslib.core.parsing import parse_yaml

# fields that change the size or the start of a network; the others of the model define a method
SIZE = {"backbone", "pretrained", "image_size", "audio_encoder", "audio_weights", "audio_dim", "channels", "map_vector"}
SIZE |= {"image_encoder_channels", "map_encoder_channels"}
METHOD = {
    "model": tuple(name for name in ModelConfig.model_fields if name not in SIZE),
    "loss": tuple(LossConfig.model_fields),
    "data": ("flip", "posterior_mask"),
    "train": ("eval_samples",),
}
FORMS = ("divergence_c", "kl_scale", "mi_bound", "structure_weighting")


def _read_variants() -> dict[str, dict[str, Any]]:
    """Those of ``assets/variants.yaml``, each after the one that it extends, and one for each form of a loss."""
    text = (resources.files("avslib") / "assets/variants.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = {}
    for name, fields in parse_yaml(text, "variants.yaml", ConfigError).items():
        found[name] = found.get(fields.pop("extends", ""), {}) | fields
    kinds = {field: get_args(LossConfig.model_fields[field].annotation) for field in FORMS}
    return found | {f"{field}_{form}": {f"loss.{field}": form} for field in FORMS for form in kinds[field]}


VARIANTS = _read_variants()


def variant(name: str) -> dict[str, Any]:
    """The fields that a variant sets, as overrides for :meth:`avslib.config.Config.replace`.

    >>> variant("without_both")
    {'loss.orthogonality': 0.0, 'loss.mi': 0.0}
    >>> variant("divergence_c_symmetric_kl")
    {'loss.divergence_c': 'symmetric_kl'}

    Raises AvsError: unknown variant, with the nearest name and the whole list.
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(str(name), VARIANTS, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"unknown variant {name!r}. {hint}Variants are {', '.join(VARIANTS)}")
    return dict(VARIANTS[name])


def method_name(config: Config) -> str:
    """The name of a configuration in tables: the variant of its preset that it is, then the fields that differ from it.

    Only the fields that define a method count, not the sizes of network and images.

    >>> method_name(load_config("mini", ["loss.mi=0"])), method_name(load_config("demo", ["model.latent_dim=4"]))
    ('without_mi', 'ecmvae, latent_dim=4')
    """
    preset = load_config(config.preset if config.preset in preset_names() else "paper")
    changed = _defining(config, preset)
    sets = {name: _defining(preset.replace(overrides), preset) for name, overrides in VARIANTS.items()}
    fitting = [name for name, fields in sets.items() if fields and fields.items() <= changed.items()]
    # the variant that explains most; of two with the same fields, the first
    best = max(fitting, key=lambda name: len(sets[name]), default="ecmvae")
    rest = [f"{key.split('.')[1]}={value}" for key, value in changed.items() if key not in sets[best]]
    return ", ".join([best, *rest])


def _defining(config: Config, preset: Config) -> dict[str, Any]:
    """The fields that differ from the preset's, of those that define a method."""
    ours, theirs = config.model_dump(mode="json"), preset.model_dump(mode="json")
    pairs = [(section, field) for section, fields in METHOD.items() for field in fields]
    return {f"{s}.{field}": ours[s][field] for s, field in pairs if ours[s][field] != theirs[s][field]}
