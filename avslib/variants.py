"""Variants of the model and the objective: a name and the fields that it sets in a preset.

``avs train``, ``avs ablate``, lesson 12 and Python train the same variants::

    config = load_config("mini").replace(variant("without_orthogonality"))

Fields that take any value need no entry, such as ``model.latent_dim`` and ``train.init_from``. ``official`` is the
released code's form of a loss; preset ``paper`` starts from the official forms, preset ``mini`` from the corrected
ones. A variant sets the same fields in every preset.
"""

import difflib
from typing import Any, get_args

from avslib.config import Config, LossConfig, load_config, preset_names
from avslib.core.errors import UsageError

# fields that define a method; the others change the size or the start of a network
METHOD = {
    "model": (
        "use_audio",
        "neck",
        "fusion",
        "fusion_span",
        "latent",
        "code_fusion",
        "sampling",
        "injection",
        "sampling",
        "latent_dim",
        "mi_dim",
    ),
    "loss": tuple(LossConfig.model_fields),
    "data": ("flip", "posterior_mask"),
    "train": ("eval_samples",),
}
RELEASED_FORMS = ("loss.structure_weighting", "loss.kl_scale", "loss.divergence_c", "loss.mi_bound", "data.flip")

# codes that carry something: see docs/results.md for what each part does
CORRECTED = {
    "model.sampling": "corrected",
    "loss.divergence_c": "kl",
    "loss.kl": 0.1,
    "loss.kl_c": 0.02,
    "loss.kl_warmup": 0.25,
    "loss.seg_samples": 1.0,
    "loss.sample_temperature": 0.15,
    "loss.orthogonality": 0.3,
    "loss.orthogonality_form": "correlation",
    "loss.mi": 0.0,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "ecmvae": {},
    # the codes: how many, how they are fused, where they enter
    "no_factorisation": {"model.latent": "unfactorised"},
    "poe": {"model.code_fusion": "product_of_experts"},
    "deterministic": {"model.latent": "none"},
    "visual_only": {"model.latent": "visual", "model.use_audio": False},
    "injection_all_levels": {"model.injection": "all_levels"},
    "injection_decoder": {"model.injection": "decoder"},
    "posterior_first_mask": {"data.posterior_mask": "first_repeated"},
    "one_sample": {"train.eval_samples": 1},
    "ten_samples": {"train.eval_samples": 10},
    # the network
    "correlation_gate": {"model.fusion": "correlation_gate"},
    "without_audio": {"model.use_audio": False},
    # the objective
    "without_orthogonality": {"loss.orthogonality": 0.0},
    "without_mi": {"loss.mi": 0.0},
    "without_both": {"loss.orthogonality": 0.0, "loss.mi": 0.0},
    "without_matching": {"loss.match": 0.0},
    "corrected": CORRECTED,
    "corrected_without_samples": CORRECTED | {"loss.seg_samples": 0.0},
    "corrected_with_low_temperature": CORRECTED | {"loss.sample_temperature": 0.05},
    "corrected_without_orthogonality": CORRECTED | {"loss.orthogonality": 0.0},
    "corrected_with_one_weight": CORRECTED | {"loss.kl": 0.02},
    "corrected_with_js": CORRECTED | {"loss.divergence_c": "monte_carlo_js"},
    "all_official": dict.fromkeys(RELEASED_FORMS, "official"),
} | {
    f"{field}_{form}": {f"loss.{field}": form}
    for field in ("divergence_c", "kl_scale", "mi_bound", "structure_weighting")
    for form in get_args(LossConfig.model_fields[field].annotation)
}


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
