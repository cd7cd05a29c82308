"""Runs a function in several gloo processes on the CPU, as a launcher would start them."""

import multiprocessing
import os
import traceback

# the server imports torch once; the processes that it forks then start at once (not on Windows)
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
SECONDS = 120


def in_processes(world, store, function, *args):
    """What `function(*args)` returns in each of `world` processes, in order of rank; `store`: a file not yet there."""
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload(["avslib.study.run", "torch.distributed"])
    results = context.SimpleQueue()
    started = [
        context.Process(target=_process, args=(results, rank, world, str(store), function, args))
        for rank in range(world)
    ]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join(SECONDS)
        found = sorted((results.get() for _ in range(world) if not results.empty()), key=lambda result: result[0])
    finally:
        for process in started:
            process.kill()
    assert [ok for _, ok, _ in found] == [True] * world, [value for _, _, value in found]
    return [value for _, _, value in found]


def _process(results, rank, world, store, function, args):
    import torch
    from torch import distributed

    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    try:
        if world > 1:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
            }
            distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
        results.put((rank, True, function(*args)))
    except Exception:
        results.put((rank, False, traceback.format_exc()))
