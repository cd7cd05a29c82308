"""Mini-AVS: clips composed from real photographic cut-outs and real sound recordings, in AVSBench's layout."""

from avslib.data.mini.build import SIZES, build_mini
from avslib.data.mini.compose import ComposedClip, compose_clip
