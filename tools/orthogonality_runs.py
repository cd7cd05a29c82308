"""The four short trainings of lesson 07: no extra term, the difference loss, the mutual-information bound, both.

    python -m tools.orthogonality_runs --data build/data/mini-small

rebuilds what is committed in ``results/course/orthogonality``: three to five minutes per variant on one CPU core.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from avslib.config import Config, load_config
from avslib.core.errors import RecordError, UsageError
from avslib.core.files import LOCK
from avslib.core.tensors import load_tensors, save_tensors
from avslib.models.ecmvae import ECMVAE
from avslib.study.records import RunRecord, load_records
from avslib.study.representation import code_gaussians
from avslib.study.run import run
from avslib.training.loop import BEST
from avslib.training.setup import open_split
from avslib.training.state import STATE
from avslib.variants import variant as method
from avslib.weights.checkpoints import load_checkpoint
from course.lesson import in_checkout

# the weights (loss.orthogonality, loss.mi) of each variant
VARIANTS = {"base": (0.0, 0.0), "orth": (0.3, 0.0), "mi": (0.0, 0.1), "both": (0.3, 0.1)}
CODES = "codes.safetensors"
# one frame and one second a clip, as S4's train clips have no other mask; a step costs a fifth
SHORT = {"data.task": "s4", "data.frames": 1, "data.workers": 0, "train.checkpoint_every": 1000}
# codes that carry something, all at one weight of the KL terms; what the codes need starts new
SHORT |= method("corrected_with_one_weight") | {"train.init_from": "mini-s4", "train.keep": "last"}
SHORT |= {"train.init_modules": ["backbone", "audio_projection", "fusion", "neck", "decoder"]}


class VariantRun(NamedTuple):
    """A variant of lesson 07: its record, the learning curve's file, and the codes of the test clips.

    `codes` holds the prior's means "s_v", "s_a", "c" [clips * T, K], their standard deviations "s_v_sd", "s_a_sd",
    "c_sd", which sampling adds as noise, the same of the posterior under "s_v_y" and so on, and "clip" [clips * T], the
    clip of each row.
    """

    record: RunRecord
    history: Path
    codes: dict[str, Tensor]


def variant_config(variant: str, data: str | Path, *, seed: int = 0, epochs: int | None = None) -> Config:
    """Preset mini, shortened; variants of one seed start from the same weights and see the same batches.

    Raises:
        AvsError: a variant that does not exist.
    """
    if variant not in VARIANTS:
        raise UsageError(f"unknown variant {variant!r}: the variants are {', '.join(VARIANTS)}")
    orthogonality, mi = VARIANTS[variant]
    own = {"data.root": str(data), "train.seed": seed, "loss.orthogonality": orthogonality, "loss.mi": mi}
    return load_config("mini", SHORT | own | ({} if epochs is None else {"train.epochs": epochs}))


def load_variant(folder: str | Path) -> VariantRun:
    """Read what `train_variant` left in a folder; codes as float32.

    Raises AvsError where the folder or one of its files is missing or damaged.
    """
    folder = Path(folder)
    try:
        codes = load_tensors(folder / CODES)[0]
    except (OSError, SafetensorError) as error:
        remedy = "restore it from git, or set TRAIN = True in lesson 07"
        raise RecordError(f"{folder / CODES}: missing or damaged ({error}); {remedy}") from None
    (record,) = load_records(folder)
    codes = {name: z.float() if z.is_floating_point() else z for name, z in codes.items()}
    return VariantRun(record, folder / "history.csv", codes)


def train_variant(
    variant: str, data: str | Path, out: str | Path, *, seed: int = 0, epochs: int | None = None, progress: bool = False
) -> VariantRun:
    """Train a variant on S4 in `data`; `out` keeps run.json, history.csv and the codes, but not the weights.

    Raises:
        AvsError: see :func:`avslib.study.run.run`.
    """
    out, config = Path(out), variant_config(variant, data, seed=seed, epochs=epochs)
    run(config, out, progress=progress, notes=f"lesson 07, variant {variant}; scored at one frame a clip")
    codes = codes_of(load_checkpoint(out / BEST), config)
    save_tensors(out / CODES, {name: z.half() if z.is_floating_point() else z for name, z in codes.items()})
    shutil.rmtree(out / BEST)
    for name in (STATE, LOCK, "clips.csv"):
        (out / name).unlink(missing_ok=True)
    return load_variant(out)


def codes_of(model: ECMVAE, config: Config, split: str = "test", frames: int = 5) -> dict[str, Tensor]:
    """The codes of every frame of a split, as :class:`VariantRun` holds them, on the CPU."""
    dataset = open_split(config.replace({"data.frames": frames}), split)
    found = {"clip": torch.arange(len(dataset), dtype=torch.int32).repeat_interleave(frames)}
    for end, gaussians in zip(("", "_y"), code_gaussians(model, config, dataset)[:2], strict=True):
        for code, (mu, logvar) in gaussians.items():
            found |= {code + end: mu, f"{code}_sd{end}": torch.exp(0.5 * logvar)}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train variants into ``results/course/orthogonality/<variant>``; a finished run replaces what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="build/data/mini-small", help="folder in AVSBench layout")
    parser.add_argument(
        "--out",
        type=Path,
        default=in_checkout("results/course/orthogonality"),
        help="folder that gets one folder for each variant",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="in place of the lesson's own number")
    parser.add_argument("variant", nargs="*", default=list(VARIANTS), help="; ".join(VARIANTS))
    given = parser.parse_args(arguments)
    for variant in given.variant:
        variant_config(variant, given.data)
    for variant in given.variant:
        out, new = given.out / variant, given.out / f".{variant}.new"
        shutil.rmtree(new, ignore_errors=True)
        trained = train_variant(variant, given.data, new, seed=given.seed, epochs=given.epochs)
        shutil.rmtree(out, ignore_errors=True)  # only now that its successor is complete
        new.rename(out)
        print(variant, {split: round(values["J"], 3) for split, values in trained.record.metrics.items()}, flush=True)


if __name__ == "__main__":
    main()
