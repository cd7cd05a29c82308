"""The predictor under its public name, ``avslib.predict.Predictor``."""
