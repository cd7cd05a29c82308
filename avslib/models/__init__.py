"""Networks: backbone, neck, latent codes, fusion and decoder, and the model that joins them."""

from avslib.models.ecmvae import ECMVAE as ECMVAE
from avslib.models.ecmvae import ECMVAEOutput as ECMVAEOutput
