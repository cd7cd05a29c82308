"""A training that counts what it holds on to: memory, file handles, threads, processes and files.

    python tests/helpers/long_run.py DATA OUT STEPS [SECTION.FIELD=VALUE ...]    preset mini; numbers as JSON on stdout
    python tests/helpers/long_run.py --record NAME DATA OUT STEPS ...            and in results/reliability/NAME.json

It looks at the end of each epoch, when the processes that read val have ended.
"""

import gc
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil

from avslib.config import load_config
from avslib.training.loop import train
from avslib.training.setup import open_split
from tools.reliability import FOLDER, write_reliability_record

WARM = 200  # steps until caches, allocators and lazy imports have settled
MEMORY = ("rss_mb", "gpu_mb")


def held() -> dict[str, float]:
    """What this process holds now. Files of other processes in /dev/shm do not count."""
    import torch

    process = psutil.Process()
    own = {str(p.pid) for p in (process, *process.children(recursive=True))}
    shared = [name for name in os.listdir("/dev/shm") if own & set(name.replace(".", "_").split("_"))]
    temporary = list(Path(tempfile.gettempdir()).rglob("*"))
    return {
        "rss_mb": process.memory_info().rss / 2**20,
        "gpu_mb": torch.cuda.memory_allocated() / 2**20,
        "handles": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(own) - 1,
        "shared_memory_files": len(shared),
        "temporary_files": len(temporary),
        "objects": len(gc.get_objects()),
    }


def growth(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of memory the slope in MB per 1,000 steps of a straight line, of all else last minus first.

    >>> growth([{"step": 200, "rss_mb": 10.0, "handles": 3}, {"step": 700, "rss_mb": 11.0, "handles": 3}])
    {'rss_mb_per_1000_steps': 2.0, 'handles': 0}
    """
    steps, numbers = [row["step"] / 1000 for row in rows], {}
    for name in rows[0].keys() - {"step"}:
        values = [row[name] for row in rows]
        if name in MEMORY:
            numbers[f"{name}_per_1000_steps"] = round(float(np.polyfit(steps, values, 1)[0]), 3)
        else:
            numbers[name] = values[-1] - values[0]
    return dict(sorted(numbers.items(), reverse=True))


def main(data: str, out: str, steps: int, *overrides: str) -> dict:
    """Train for at least `steps` steps, in whole epochs; what was held and how it grew."""
    config = load_config("mini", [f"data.root={data}", *overrides])
    per_epoch = len(open_split(config, "train").clips) // config.train.batch_size
    config = config.replace({"train.epochs": -(-steps // per_epoch)})
    rows: list[dict[str, float]] = []

    def look(row):
        if "val_J" in row and row["step"] >= min(WARM, steps // 10):
            gc.collect()
            rows.append({"step": row["step"], **held()})
            print(rows[-1], file=sys.stderr, flush=True)

    trained = train(config, out, progress=False, on_row=look)
    run = Path(out)
    history = (run / "history.csv").stat().st_size
    events = sum(path.stat().st_size for path in run.glob("tensorboard/*"))
    last = rows[-1]
    return {
        "steps": last["step"],
        "epochs": config.train.epochs,
        "seconds": round(trained.seconds),
        "first": rows[0],
        "last": last,
        "growth": growth(rows),
        "history_mb_at_a_million_steps": round(history / last["step"], 2),
        "tensorboard_mb_at_a_million_steps": round(events / last["step"], 2),
    }


if __name__ == "__main__":
    arguments = sys.argv[1:]
    name = arguments.pop(1) if arguments[0] == "--record" else None
    arguments = arguments[1:] if name else arguments
    numbers = main(arguments[0], arguments[1], int(arguments[2]), *arguments[3:])
    if name:
        write_reliability_record(FOLDER, name, **numbers)
    print(json.dumps(numbers))
