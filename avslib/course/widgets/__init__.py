"""Widgets of the course. Each has a figure function that draws the same picture without ipywidgets.

A figure function returns a matplotlib Figure whose label says in words what it shows, which becomes the picture's
alternative text. It raises an AvsError for a clip that the dataset lacks and other arguments out of range.
Imported here, not on first use: module and function have the same name, and the module would shadow the function.
ipywidgets and matplotlib are imported when a widget or a figure is made.
"""
# ruff: noqa: F401 - the names of this package

from avslib.course.show import video_html
from avslib.course.widgets.clip_browser import clip_browser, clip_figure
from avslib.course.widgets.latent_explorer import LatentAxes, code_axes, latent_explorer, latent_figure, principal_axes
from avslib.course.widgets.loss_playground import divergence_figure, divergences, loss_playground
from avslib.course.widgets.sound_swapper import sound_swapper, swap_figure, swap_pairs
from avslib.course.widgets.threshold_slider import threshold_figure, threshold_slider
from avslib.course.widgets.video_upload import strip_figure, video_upload
