"""The predictor under its public name, ``avslib.predict.Predictor``."""

from avslib.video.predictor import Predictor as Predictor
