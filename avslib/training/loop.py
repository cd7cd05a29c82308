"""The training loop: batch, forward, objective, backward, clip, step, schedule; after each epoch score, keep the best.

What stands around it: `setup` builds data, model and optimiser, `state` keeps the run on disk, `guards` end a training
early, `distributed` holds what processes share.

Nothing depends on a random generator that runs on (`avslib.core.seeds`): noise and dropout come from (seed, step),
order and flips from (seed, epoch, clip), so a resumed run repeats the uninterrupted one to the bit. Each of P processes
reads its part of the batch that one process with P times the batch size would read.
"""

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from rich.console import Console

from avslib.config import Config
from avslib.core.seeds import dropout_seed
from avslib.losses import objective
from avslib.training.evaluate import evaluate, flatten_clips, scoring_options
from avslib.training.guards import CorruptClips, FiniteLoss, StopOnSigterm
from avslib.training.noise import step_noise
from avslib.training.setup import open_run
from avslib.training.state import HISTORY, History, OnRow, Trained
from avslib.weights.checkpoints import save_checkpoint

BEST = "best"
LOG_EVERY = 10  # steps per row of history.csv


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    console: Console | None = None,
    on_row: OnRow | None = None,
) -> Trained:
    """Train a model and keep the checkpoint with the best J on val.

    Several processes call it alike: only the first one writes, all raise together, and `out` must be on a disk that
    they share. The caller's random generators are left as they were.

    Args:
        config: ``data.root`` and ``data.task`` name the data.
        out: new folder; gets ``best/`` (weights and config), ``history.csv`` (losses and val scores), ``state.pt``,
            from which `resume` continues, and ``corrupt_clips.txt`` if there were any.
        resume: continue an interrupted run in `out`, or start one if there is none.
        on_row: called in the main process with each new row of ``history.csv`` (step, epoch, lr and loss parts; or
            step, epoch, val_J and val_F), for example to draw it. What it raises ends the training.

    Raises AvsError: no data, `out` holds another run or is being trained into, a loss that is not finite, more corrupt
    clips than ``data.max_corrupt``, too little memory for the batch, a data worker that died. Preempted: SIGTERM came;
    the step was finished and its state saved.
    """
    t, d, out = config.train, config.data, Path(out)
    with open_run(config, out, resume, progress, console) as run, StopOnSigterm() as stop:
        accelerator, model, optimizer, state, steps = run.accelerator, run.model, run.optimizer, run.state, run.steps
        rank, main = accelerator.process_index, accelerator.is_main_process
        history = History(out / HISTORY, state.step, main, on_row, accelerator.log)
        given: dict[str, Any] = {"frames": run.frames, "posterior_mask": d.posterior_mask, "samples": run.samples}
        finite, corrupt = FiniteLoss(out, LOG_EVERY), CorruptClips(state.corrupt, config, out, run.console)
        for epoch in range(state.step // steps, t.epochs):
            model.train()
            for batch in run.batches():
                torch.manual_seed(dropout_seed(t.seed, state.step, rank))
                rows = flatten_clips(batch, accelerator.device)
                image, mask = run.plain.normalize(rows["image"]), rows["mask"].float()
                annotated = rows["annotated"] if d.task == "s4" else None
                noise = step_noise(run.plain, config, state.step, len(mask), annotated)
                with accelerator.accumulate(model):
                    output = model(image, rows["audio"], mask, noise=noise, annotated=annotated, **given)
                    losses = objective(output, mask, config, noise, **run.context())
                    accelerator.backward(losses["loss"])
                    if t.clip_grad and accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), t.clip_grad)
                    optimizer.step()
                    optimizer.zero_grad()
                lr = run.schedule.get_last_lr()[0]
                run.remember(output.latents)
                state.count(losses)
                run.schedule.step()

                # that was a step; what follows watches over it, and writes rows and states
                done = state.step - epoch * steps
                row_is_due = done % LOG_EVERY == 0 or done == steps
                finite.see(state.step, batch, losses["loss"])
                corrupt.see(batch, row_is_due)
                if row_is_due:
                    means = finite.require(state.row(done % LOG_EVERY or LOG_EVERY), state.step)
                    history.add(step=state.step, epoch=epoch, lr=lr, **means)
                    run.show(means["loss"])
                save = stop.agreed(row_is_due) or state.step % t.checkpoint_every == 0
                if save and done < steps and accelerator.sync_gradients:
                    finite.require(state.share(), state.step)
                    run.save()
                    stop.end(out, state.step)

            broadcast([*run.plain.buffers()])  # all score with the running statistics that are saved
            val = evaluate(run.plain, run.valset, shared=True, **scoring_options(config)).metrics
            history.add(step=state.step, epoch=epoch, val_J=val["J"], val_F=val["F"])
            if t.keep == "last" or val["J"] > state.best_j:
                state.best_epoch, state.best_j = epoch, val["J"]
                if main:
                    save_checkpoint(out / BEST, run.plain)
            run.save()
            run.report(epoch, val)
            if stop.agreed(True):
                stop.end(out, state.step)
        return Trained(out / BEST, state.best_epoch, state.best_j, state.seconds, corrupt.note())
