"""What the codes hold: how much a specific code repeats the shared one, and what can be read from each of them."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from avslib.config import Config
from avslib.data.avsbench import AVSBench
from avslib.data.loading import eval_loader
from avslib.data.mini.sources import ClipLabels
from avslib.losses.kl import gaussian_kl
from avslib.losses.orthogonality import correlation_loss
from avslib.models.ecmvae import ECMVAE
from avslib.models.latent import PRIOR
from avslib.study.ambiguity import SPLIT as AMBIGUOUS
from avslib.study.records import RunRecord
from avslib.study.results import Row, summarise
from avslib.study.tables import Format, Table, render
from avslib.training.evaluate import flatten_clips

NAMES = dict(zip(PRIOR, ("s_v", "s_a", "c"), strict=True))
CODES = "codes"  # what a record files these scores under
ACTIVE = 0.01  # nats of KL from which a unit counts as active
ABOUT_OVERLAP = (
    "CKA of the means of a specific code and c, of prior and posterior: 0 independent, 1 equal. KL of posterior and "
    "prior in nats; active: units of 16 with more than 0.01 nats. ECE: calibration error, on split ambiguous, of the "
    "samples' mean probability. Mean ± sample sd over seeds."
)
ABOUT_PROBES = (
    "x: R² of the mask's horizontal centre from the posterior's means, by ridge regression. Sound, background: "
    "accuracy of a linear probe of the prior's means for the class that sounds and for the photograph behind. All on "
    "clips that were not fitted on."
)

Gaussians = dict[str, tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]]


@torch.no_grad()
def code_gaussians(model: ECMVAE, config: Config, dataset: AVSBench) -> tuple[Gaussians, Gaussians, Tensor]:
    """(mu, logvar) of s_v, s_a and c in each frame, of the prior and of the posterior, and the frames' masks
    [N, 1, H, W]; on the CPU. Raises AttributeError for a model without a posterior."""
    model.eval()
    device, size = next(model.parameters()).device, config.model.image_size
    found: dict[str, list[Tensor]] = {}
    for batch in eval_loader(dataset, config.train.eval_batch_size, config.data.workers):
        rows = flatten_clips(batch, device)
        image, mask = model.normalize(rows["image"]), rows["mask"].float()
        seen = torch.nn.functional.interpolate(mask, (size, size), mode="nearest-exact")
        latents = model.prior.encode(image, rows["audio"], None) | model.posterior.encode(image, rows["audio"], seen)
        values = {f"{name} {which}": x for name, pair in latents.items() for which, x in enumerate(pair)}
        for name, value in (values | {"mask": mask}).items():
            found.setdefault(name, []).append(value.cpu())
    whole = {name: torch.cat(parts) for name, parts in found.items()}
    prior, posterior = (
        {code: (whole[f"{name}{y} 0"], whole[f"{name}{y} 1"]) for name, code in NAMES.items()} for y in ("", "_y")
    )
    return prior, posterior, whole["mask"]


def representation(
    model: ECMVAE, config: Config, dataset: AVSBench, labels: Mapping[str, ClipLabels]
) -> dict[str, float]:
    """Scores of the codes' means on the first frame of each clip, by name_branch_code.

    - cka: of a specific code and c, as `correlation_loss` (unbiased linear CKA): 0 independent, 1 equal.
    - x: R^2 of the horizontal centre of the mask by ridge regression.
    - sound, background: accuracy of a linear probe of the class that sounds, and of the background's photograph. All
      probes are scored on clips that they were not fitted on (5 folds).
    - kl, active: KL(posterior || prior) in nats, and the number of units with more than 0.01.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.metrics import accuracy_score, r2_score

    prior, posterior, mask = code_gaussians(model, config, dataset)
    mask = mask[:: dataset.frames]
    columns = torch.linspace(0, 1, mask.shape[-1])
    x = ((mask * columns).sum((1, 2, 3)) / mask.sum((1, 2, 3))).numpy()
    targets = {
        "sound": np.array([min(labels[name].heard) for name in dataset.names]),
        "background": np.array([labels[name].background for name in dataset.names]),
    }
    scores = {}
    for branch, codes in (("prior", prior), ("posterior", posterior)):
        means = {code: mu[:: dataset.frames] for code, (mu, _) in codes.items()}
        for code, mu in means.items():
            if code != "c":
                scores[f"cka_{branch}_{code}"] = float(correlation_loss(mu, means["c"]))
            scores[f"x_{branch}_{code}"] = float(r2_score(x, _probe(RidgeCV(np.logspace(-3, 3, 7)), mu, x)))
            for what, classes in targets.items():
                found = _probe(LogisticRegression(max_iter=1000), mu, classes)
                scores[f"{what}_{branch}_{code}"] = float(accuracy_score(classes, found))
    for code, q in posterior.items():
        units = zip(*(x.split(1, dim=1) for x in (*q, *prior[code])), strict=True)
        kl = torch.stack(
            [gaussian_kl((mu_q, logvar_q), (mu_p, logvar_p)).mean() for mu_q, logvar_q, mu_p, logvar_p in units]
        )
        scores[f"kl_{code}"], scores[f"active_{code}"] = float(kl.sum()), float((kl > ACTIVE).sum())
    return scores


def _probe(model: object, z: Tensor, target: np.ndarray) -> np.ndarray:
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = KFold(5, shuffle=True, random_state=0)
    return cross_val_predict(make_pipeline(StandardScaler(), model), z.double().numpy(), target, cv=folds)


def codes_table(records: Iterable[RunRecord], task: str, fmt: Format = "md") -> Any:
    """Two tables of the runs whose records hold :func:`representation`: overlap and rate of the codes, and what can be
    read from them; mean ± sd over seeds. With them the calibration error of samples on split ``ambiguous``."""
    rows = [row for row in summarise(records, task) if CODES in row.values]
    codes = list(NAMES.values())
    overlap = {f"CKA {z}, c ({b})": f"cka_{b}_{z}" for b in ("prior", "posterior") for z in codes[:2]}
    overlap |= {f"KL {z}": f"kl_{z}" for z in codes} | {f"active {z}": f"active_{z}" for z in codes}
    probes = {f"x {z}": f"x_posterior_{z}" for z in codes}
    probes |= {f"{what} {z}": f"{what}_prior_{z}" for what in ("sound", "background") for z in codes}
    tables = [
        Table(f"Mini-AVS, {task.upper()}: overlap and rate of the codes", _cells(rows, overlap), [ABOUT_OVERLAP]),
        Table(f"Mini-AVS, {task.upper()}: what can be read from the codes", _cells(rows, probes), [ABOUT_PROBES]),
    ]
    tables[0].cells["ECE"] = [row.cell(AMBIGUOUS, "ece") for row in rows]
    return render(tables, fmt)


def _cells(rows: Iterable[Row], columns: Mapping[str, str]) -> pd.DataFrame:
    cells = [{head: row.cell(CODES, name, digits=2) for head, name in columns.items()} for row in rows]
    return pd.DataFrame([{"Variant": row.label} | line for row, line in zip(rows, cells, strict=True)])
