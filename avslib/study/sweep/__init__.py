"""Sweeps: grids of variants, tasks and seeds, run on one machine or many, that can be stopped at any time."""
