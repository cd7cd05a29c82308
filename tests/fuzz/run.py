#!/usr/bin/env python3
"""Fuzz the readers of avslib: each in a process of its own, with a limit of time and memory for every input.

    python tests/fuzz/run.py                              every reader for 60 s
    python tests/fuzz/run.py --target wav --seconds 600   one reader for ten minutes
    python tests/fuzz/run.py --engine hypothesis          without atheris
    python tests/fuzz/run.py --seconds 120 --record       keep the numbers, with how many finds were mended so far

Seconds are those of the processor, so that a busy machine fuzzes as much as an idle one. Finds are written to
build/fuzz/READER/, once each by what was raised and where. The exit code is 1 where there are any. Needs Linux.
"""

import argparse
import faulthandler
import hashlib
import importlib
import importlib.util
import json
import mmap
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT, KEPT = ROOT / "build" / "fuzz", ROOT / "tests" / "fuzz" / "finds"
SECONDS = 5  # of the processor for one input
PATIENCE = 120  # seconds of the clock for one input, for what waits instead of working
MEMORY = 3 * 2**30  # address space beyond that of the imports
LONGEST = 16384  # bytes of an input
# imported as it is; of the rest that is imported, these packages are instrumented, so that atheris sees which lines an
# input reaches
PLAIN = (
    "torch",
    "torchaudio",
    "timm",
    "scipy.ndimage",
    "pydantic",
    "rich.progress",
    "huggingface_hub",
    "matplotlib.pyplot",
)
COVERED = ["avslib", "yaml", "PIL", "webdataset"]

Reader = Callable[[bytes], None]


def engines() -> list[str]:
    """Engines that can be used here, the best first."""
    return ["atheris", "hypothesis"] if importlib.util.find_spec("atheris") else ["hypothesis"]


def load_targets(engine: str) -> dict[str, Reader]:
    """The readers, instrumented for atheris; a minute of imports, once."""
    if engine == "atheris":
        import atheris

        for name in PLAIN:
            importlib.import_module(name)
        with atheris.instrument_imports(include=COVERED), open(os.devnull, "w") as nothing:
            output, sys.stderr = sys.stderr, nothing
            try:
                from tests.fuzz.targets import TARGETS
            finally:
                sys.stderr = output
    else:
        from tests.fuzz.targets import TARGETS
    return TARGETS


def fuzz(name: str, read: Reader, seconds: float, engine: str, out: Path = OUT) -> dict[str, float]:
    """Fuzz one reader in forked processes until the time is up; one that crashes is followed by another.

    Returns:
        minutes (of the processor), inputs, and finds (new files in ``out/name``).
    """
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    before, inputs, used = set(folder.glob("find-*.bin")), 0, 0.0
    while used < seconds - 0.5:
        counter = mmap.mmap(-1, 16)  # inputs, and microseconds of the processor
        child = os.fork()
        if child == 0:
            _be_child(name, read, seconds - used, engine, folder, counter)
        _, status = os.waitpid(child, 0)
        inputs += int.from_bytes(counter[:8], "little")
        used += max(0.2, int.from_bytes(counter[8:], "little") / 1e6)
        if status:
            output, code = (folder / "stderr").read_text(errors="replace"), os.waitstatus_to_exitcode(status)
            _keep(folder, (folder / "current").read_bytes(), f"status {code}", output[-5000:])
    finds = set(folder.glob("find-*.bin")) - before
    return {"minutes": round(used / 60, 2), "inputs": inputs, "finds": len(finds)}


def _keep(folder: Path, data: bytes, what: str, output: str) -> None:
    """Write an input and its traceback, unless the same was found before; the shorter input stays."""
    places = [place for place in re.findall(r'File "([^"]+)", line (\d+)', output) if "fuzz" not in place[0]]
    key = hashlib.sha256(f"{what} {places[-3:]}".encode()).hexdigest()[:12]
    path = folder / f"find-{key}.bin"
    if not path.exists() or path.stat().st_size > len(data):
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(f"{what}\n{output}", encoding="utf-8")


def _be_child(name: str, read: Reader, seconds: float, engine: str, folder: Path, counter: mmap.mmap) -> None:
    """Give inputs to one reader until the time is up; never returns."""
    errors = os.open(folder / "stderr", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        faulthandler.enable()
        faulthandler.register(signal.SIGPROF, chain=True)  # after the traceback the signal ends the process
        current = os.open(folder / "current", os.O_RDWR | os.O_CREAT, 0o644)
        count, begin = 0, time.process_time()

        def one(data: bytes) -> None:
            nonlocal count
            spent = time.process_time() - begin
            counter[:] = count.to_bytes(8, "little") + int(spent * 1e6).to_bytes(8, "little")
            if spent > seconds:
                os._exit(0)
            os.ftruncate(current, 0)
            os.pwrite(current, data, 0)
            count += 1
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                read(data)
            except Exception as error:
                _keep(folder, data, type(error).__name__, "".join(traceback.format_exception(error)))
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                faulthandler.cancel_dump_traceback_later()

        (_with_atheris if engine == "atheris" else _with_hypothesis)(name, folder, one)
    except BaseException:
        traceback.print_exc()
    os._exit(3)


def _with_atheris(name: str, folder: Path, one: Reader) -> None:
    import atheris

    from tests.fuzz.seeds import seeds

    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(data)
    flags = [
        f"-max_len={LONGEST}",
        f"-seed={random.randrange(1, 2**31)}",
        "-timeout=3600",
        "-rss_limit_mb=0",
        "-detect_leaks=0",
        f"-artifact_prefix={folder}/libfuzzer-",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
    atheris.Fuzz()


def _with_hypothesis(name: str, folder: Path, one: Reader) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    from tests.fuzz.mutations import damaged

    options = settings(
        max_examples=200, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    while True:
        seeded(random.getrandbits(32))(options(given(damaged(name))(one)))()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", action="append", help="reader; may be repeated; default: all")
    parser.add_argument("--seconds", type=float, default=60, help="of the processor, for each reader")
    parser.add_argument("--rounds", type=int, default=1, help="times that each reader gets them, in turn")
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), help="default: atheris where it is installed")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for corpus and finds")
    parser.add_argument("--record", action="store_true", help="write results/reliability/fuzz.json")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from tests.fuzz.seeds import SEEDS, seeds

    engine, names = given.engine or engines()[0], given.target or sorted(SEEDS)
    if engine not in engines():
        print("atheris is not installed: pip install atheris, or give --engine hypothesis", file=sys.stderr)
        return 2
    if unknown := set(names) - set(SEEDS):
        print(f"no reader {', '.join(sorted(unknown))}; there are {', '.join(sorted(SEEDS))}", file=sys.stderr)
        return 2
    targets = load_targets(engine)
    results = {name: {"minutes": 0.0, "inputs": 0, "finds": 0} for name in names}
    for _ in range(given.rounds):
        for name in names:
            seeds(name)
            found = fuzz(name, targets[name], given.seconds, engine, given.out)
            results[name] = {key: round(results[name][key] + value, 2) for key, value in found.items()}
            print(json.dumps({name: results[name]}), flush=True)
    if given.record:
        from tools.reliability import FOLDER, write_reliability_record

        numbers = {key: {name: r[key] for name, r in results.items()} for key in ("minutes", "inputs")}
        kept = {name: len(list((KEPT / name).glob("*.bin"))) for name in results}
        new = {name: r["finds"] for name, r in results.items()}
        print(write_reliability_record(ROOT / FOLDER, "fuzz", engine=engine, **numbers, finds=kept, not_mended=new))
    return 1 if any(r["finds"] for r in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
