"""Everything to be learnt from some minutes on a GPU, by one command that keeps a time budget and can be resumed.

    sh tools/gpu/wheels.sh                            # where there is an index: the wheels that such a machine lacks
    python tools/gpu/check.py                         # on the machine: tests, bench and training in 14 minutes
    python tools/gpu/check.py --rehearse              # the same on a CPU, with small sizes: tries the check only

Part 1 is ``pytest -m gpu``. Part 2 is ``avs bench`` for two backbones: every precision and option against the plain
reference in the same run, batches 1 to 64, the ten most expensive operations, and last torch.compile. Part 3 composes
Mini-AVS and trains the shipped checkpoints as long as time allows.

Each step is a process with a second by which it must be done; what one leaves, the next ones have. Results are written
after every step: OUT/check.json, OUT/check.md, the bench records and OUT/NAME.log. The same command again runs what
is not done yet and continues a training. Exit code: 0 done, 1 a step failed, 75 out of time.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build/gpu"  # ignored by git: wheels, what they install, composed clips
SITE = WORK / "site"
GRACE = 15  # seconds from SIGTERM, at which a training saves its state, to SIGKILL
TAIL = 80  # lines of a log that the page shows
OUT_OF_TIME = 75
PLANNED_MINUTES = 14
COMPOSE = "import json, sys; from avslib.data.mini import build_mini; build_mini(**json.loads(sys.argv[1]))"
# shipped checkpoint -> (configuration, overrides, the one it starts from), as at the top of the configurations
CHECKPOINTS = {
    "mini-s4": ("pretrain-mini", [], ""),
    "mini-s4-without-audio": ("pretrain-mini", ["model.use_audio=false"], ""),
    "mini-ms3": ("pretrain-ms3", [], "mini-s4"),
    "mini-ms3-without-audio": ("pretrain-ms3", ["model.use_audio=false"], "mini-s4-without-audio"),
}
SMALL = ["model.image_size=64", "model.channels=8", "train.epochs=1", "train.batch_size=4", "train.warmup_steps=0"]
SIZES = {"s4": {"size": "full", "tasks": ["s4"]}, "ms3": {"size": "ms3"}}
FEW = {"train": 12, "val": 2, "test": 2, "test_unseen": 2}


class Step(NamedTuple):
    """A process to run. `until`: the second of a check of `PLANNED_MINUTES` by which it must be done."""

    name: str
    part: int
    until: int
    command: list[str]


def plan(device: str, small: bool, out: Path, wheels: Path) -> list[Step]:
    """All steps in their order; part 0 sets up, 1 tests, 2 measures, 3 trains."""
    module = [sys.executable, "-m"]
    install = [*module, "pip", "install", "--no-index", "--no-deps", "--upgrade", "--target", str(SITE)]
    steps = [Step("wheels", 0, 30, [*install, *map(str, sorted(wheels.glob("*.whl")))])] if wheels.is_dir() else []
    # the bench's own test is left out: part 2 runs the bench
    steps.append(
        Step("tests", 1, 90, [*module, "pytest", "-m", "gpu", "tests/gpu", "--device", device, "-k", "not bench"])
    )

    def bench(backbone: str, *options: str) -> list[str]:
        size = ["--quick", "--rounds", "1", "--batch", "2"] if small else ["--rounds", "5"]
        return [
            *module,
            "avslib.cli",
            "bench",
            "--device",
            device,
            "--out",
            str(out),
            "--backbone",
            backbone,
            *size,
            *options,
        ]

    backbones = ("pvt_v2_b0", "resnet18") if small else ("pvt_v2_b5", "resnet50")
    common = ["--part", "ceilings", "--part", "fusion", "--part", "inference", "--part", "train"]
    curves = ["--part", "batches", "--part", "profile"]
    for name, until in zip(backbones, (160, 205), strict=True):
        steps.append(Step(f"bench-{name}", 2, until, bench(name, *common)))
    for name, until in zip(backbones, (240, 265), strict=True):
        steps.append(Step(f"curves-{name}", 2, until, bench(name, *curves)))
    for name in reversed(backbones):  # the quicker one to compile first
        steps.append(
            Step(f"compile-{name}", 2, 300, bench(name, "--compile", "--part", "train", "--part", "inference"))
        )
    clips = {task: WORK / f"clips-{task}{'-small' if small else ''}" for task in SIZES}
    for (task, folder), until in zip(clips.items(), (340, 380), strict=True):
        size = {"counts": {task: FEW}, "image_size": 64} if small else SIZES[task]
        values = json.dumps({"out": str(folder), "seed": 1, "progress": False, **size})
        steps.append(Step(f"clips-{task}", 3, until, [sys.executable, "-c", COMPOSE, values]))
    workers = f"data.workers={0 if small else min(12, os.cpu_count() or 1)}"
    for (name, (preset, changes, start)), until in zip(CHECKPOINTS.items(), (490, 600, 720, 840), strict=True):
        task = name.split("-")[1]
        values = [workers, *changes, *([f"train.init_from={out / start / 'best'}"] if start else [])]
        given = [part for value in values + (SMALL if small else []) for part in ("-o", value)]
        where = ["--data", str(clips[task]), "--task", task, "--out", str(out / name), "--resume"]
        train = [*module, "avslib.cli", "train", "--preset", f"configs/{preset}.yaml", *where, *given]
        steps.append(Step(f"train-{name}", 3, until, train))
    return steps


class Check:
    """The steps done so far, in OUT/check.json and OUT/check.md."""

    def __init__(self, out: Path, settings: dict):
        self.out, self.path = out, out / "check.json"
        self.values = {"settings": settings, "machine": machine(), "steps": {}}
        out.mkdir(parents=True, exist_ok=True)
        if self.path.is_file():
            self.values = json.loads(self.path.read_text(encoding="utf-8"))
            if self.values["settings"] != settings:
                sys.exit(f"{self.path}: holds a check with {self.values['settings']}; choose a different --out")

    def status(self, name: str) -> str:
        return self.values["steps"].get(name, {}).get("status", "")

    def keep(self, name: str, **values: object) -> None:
        """Add what became of a step, and write both files."""
        self.values["steps"][name] = values
        lines = [
            f"# GPU check: {self.values['machine']['gpu']}\n",
            "| step | part | status | seconds |",
            "| --- | --- | --- | --- |",
        ]
        for step, v in self.values["steps"].items():
            lines.append(f"| {step} | {v['part']} | {v['status']} | {v['seconds']:.0f} |")
        for step in self.values["steps"]:
            log = (self.out / f"{step}.log").read_text(encoding="utf-8", errors="replace").splitlines()
            lines += ["", f"## {step}", "", "```", *log[-TAIL:], "```"]
        for path, text in ((self.path, json.dumps(self.values, indent=1)), (self.out / "check.md", "\n".join(lines))):
            part = path.with_name(path.name + ".part")
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(path)


def machine() -> dict[str, str]:
    """What this machine is."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        gpu = ""
    cores = f"{os.cpu_count()} cores"
    return {"gpu": gpu or "none", "cpu": f"{platform.machine()}, {cores}", "python": platform.python_version()}


def run(command: list[str], log: Path, seconds: float) -> tuple[int, float]:
    """Exit code and seconds of a command; `OUT_OF_TIME` where it was still running after `seconds`."""
    paths = [str(ROOT), *([str(SITE)] if SITE.is_dir() else []), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "170", "NO_COLOR": "1"}
    start = time.monotonic()
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=stream, stderr=stream, start_new_session=True)
        try:
            code = process.wait(seconds - GRACE)
        except subprocess.TimeoutExpired:
            code = OUT_OF_TIME
        finally:  # also at Ctrl-C, and at the end of this process
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers too
            process.wait()
    return code, time.monotonic() - start


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with small sizes; all else is the same")
    parser.add_argument("--minutes", type=float, default=PLANNED_MINUTES, help="time budget, training included")
    parser.add_argument("--out", type=Path, default=None, help="results; default: build/gpu/check or .../rehearsal")
    parser.add_argument("--wheels", type=Path, default=WORK / "wheels", help="folder that wheels.sh filled, if any")
    parser.add_argument("--part", type=int, action="append", choices=(1, 2, 3), help="only this part; may be repeated")
    parser.add_argument("--skip", action="append", default=[], metavar="STEP", help="leave out; may be repeated")
    given = parser.parse_args(arguments)
    start, budget = time.monotonic(), 60 * given.minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    device = "cpu" if given.rehearse else given.device
    out = (given.out or WORK / ("rehearsal" if given.rehearse else "check")).resolve()
    steps = plan(device, given.rehearse, out, given.wheels.resolve())
    if unknown := set(given.skip) - {s.name for s in steps} - {"wheels"}:
        parser.error(f"--skip {unknown.pop()}: unknown step; steps are {', '.join(s.name for s in steps)}")
    steps = [s for s in steps if s.name not in given.skip and (not s.part or s.part in (given.part or (1, 2, 3)))]
    check = Check(out, {"device": device, "rehearse": given.rehearse})
    for last in (False, True):  # what ran out of its own time has all that is left in the end
        for step in steps:
            if check.status(step.name) == "ok" or (last and check.status(step.name) == "failed"):
                continue
            until = budget if last else budget * step.until / 60 / PLANNED_MINUTES
            left = until - (time.monotonic() - start)
            if left < 2 * GRACE:
                code, seconds = OUT_OF_TIME, 0.0
                (out / f"{step.name}.log").touch()
            else:
                code, seconds = run(step.command, out / f"{step.name}.log", left)
            status = {0: "ok", OUT_OF_TIME: "out of time"}.get(code, "failed")
            check.keep(
                step.name, part=step.part, status=status, code=code, seconds=round(seconds, 1), until=round(until)
            )
            print(f"{time.monotonic() - start:6.0f} s  {status:12} {step.name}, {seconds:.0f} s", flush=True)
    found = {check.status(step.name) for step in steps}
    print(f"results: {check.path.with_suffix('.md')}")
    return 1 if "failed" in found else OUT_OF_TIME if "out of time" in found else 0


if __name__ == "__main__":
    sys.exit(main())
