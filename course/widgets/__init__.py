"""Widgets of the course. Each has a figure function that draws the same picture without ipywidgets.

A figure's label says in words what it shows, which becomes the picture's alternative text. Arguments out of range, such
as a clip that the dataset lacks, raise AvsError.
"""
# ruff: noqa: F401 - the names of this package

from course.show import video_html
from course.widgets.clips import clip_browser, clip_figure, sound_swapper, swap_figure, swap_pairs
from course.widgets.curves import divergence_figure, divergences, loss_playground, threshold_figure, threshold_slider
from course.widgets.latent import code_axes, latent_explorer, latent_figure, principal_axes
from course.widgets.video_upload import strip_figure, video_upload
