"""Variants of the model and the objective, as data: a name and what it changes in a preset.

Every entry is a switch of the configuration, so that a variant can be trained by ``avs train``, by lesson 12 and from
Python alike::

    config = load_config("mini").replace(variant("without_orthogonality"))

The names of the forms are those of ``LossConfig``; ``official`` is the released code's form. Preset ``paper`` starts
from the official forms, preset ``mini`` from the corrected ones; a variant says the same whatever the preset.
"""

import difflib
from typing import Any, get_args

from avslib.config import LossConfig
from avslib.errors import AvsError

__all__ = ["VARIANTS", "variant"]


def _forms(field: str) -> tuple[str, ...]:
    return get_args(LossConfig.model_fields[field].annotation)


RELEASED_FORMS = ("loss.structure_weighting", "loss.kl_scale", "loss.divergence_c", "loss.mi_bound", "data.flip")

VARIANTS: dict[str, dict[str, Any]] = {
    "ecmvae": {},
    "without_audio": {"model.use_audio": False},
    "without_orthogonality": {"loss.orthogonality": 0.0},
    "without_mi": {"loss.mi": 0.0},
    "without_both": {"loss.orthogonality": 0.0, "loss.mi": 0.0},
    "without_matching": {"loss.match": 0.0},
    "all_official": dict.fromkeys(RELEASED_FORMS, "official"),
} | {
    f"{field}_{form}": {f"loss.{field}": form}
    for field in ("divergence_c", "kl_scale", "mi_bound", "structure_weighting")
    for form in _forms(field)
}  # fmt: skip


def variant(name: str) -> dict[str, Any]:
    """What a variant changes, as overrides for :meth:`avslib.config.Config.replace`.

    >>> variant("without_both")
    {'loss.orthogonality': 0.0, 'loss.mi': 0.0}
    >>> variant("divergence_c_symmetric_kl")
    {'loss.divergence_c': 'symmetric_kl'}

    Raises:
        AvsError: no such variant, with the nearest name and the whole list.
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(str(name), VARIANTS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise AvsError(f"variant {name!r}: there is none; {hint}variants are {', '.join(VARIANTS)}")
    return dict(VARIANTS[name])
