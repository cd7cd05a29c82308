"""Networks: backbone, neck, latent codes, fusion and decoder, and the model that joins them."""

from avslib.models.ecmvae import ECMVAE, ECMVAEOutput

__all__ = ["ECMVAE", "ECMVAEOutput"]
