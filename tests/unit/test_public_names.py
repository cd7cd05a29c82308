"""The names that users import stay where they are."""

from importlib import import_module

import pytest

PUBLIC = {
    "avslib": "ECMVAE ECMVAEOutput Config load_config load_checkpoint load_official train evaluate Predictor AvsError",
    "avslib.predict": "Predictor",
    "avslib.losses": "objective kl_loss structure_loss orthogonality_loss mutual_information_bound matching_loss "
    "correlation_loss",
    "avslib.audio": "log_mel load_clip load_wav to_mono_16k SAMPLE_RATE",
    "avslib.metrics": "MeanIoU FScore LegacyFScore f_curves iou_per_frame frame_scores",
    "avslib.video": "read_video probe",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_importable(module):
    missing = [name for name in PUBLIC[module].split() if not hasattr(import_module(module), name)]
    assert missing == []
