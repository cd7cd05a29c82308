"""Each variant is a set of valid switches, and changes what its name says."""

import pytest

from avslib.config import load_config
from avslib.errors import AvsError
from avslib.records import variant_hash
from avslib.variants import VARIANTS, variant


@pytest.mark.parametrize("preset", ["mini", "paper"])
@pytest.mark.parametrize("name", VARIANTS)
def test_overrides_are_fields_with_their_values(name, preset):
    values = load_config(preset).replace(variant(name)).model_dump()
    for key, wanted in variant(name).items():
        section, field = key.split(".")
        assert values[section][field] == wanted


def test_no_two_variants_are_the_same_configuration_but_for_the_presets_own_forms():
    hashes = {
        name: variant_hash(load_config("mini").replace(variant(name)).model_dump(mode="json")) for name in VARIANTS
    }
    same_as_full = {name for name, value in hashes.items() if value == hashes["ecmvae"]}
    assert same_as_full == {"ecmvae", "divergence_c_monte_carlo_js", "kl_scale_consistent", "mi_bound_full",
                            "structure_weighting_per_pixel"}  # fmt: skip
    assert len(set(hashes.values())) == len(VARIANTS) - len(same_as_full) + 1


def test_unknown_variant_names_the_nearest_and_all():
    with pytest.raises(AvsError, match=r"did you mean 'without_mi'\?.*ecmvae, without_audio"):
        variant("witout_mi")


def test_what_is_returned_can_be_changed():
    variant("without_mi")["loss.mi"] = 1.0
    assert variant("without_mi") == {"loss.mi": 0.0}
