"""Sweeps: grids of variants, tasks and seeds, run on one machine or many, that can be stopped at any time.

Start with :func:`avslib.study.sweep.engine.run_grid`, or on the command line with ``avs ablate GRID.yaml``.
"""
