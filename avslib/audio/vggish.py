"""VGGish: the frozen sound encoder of the paper, under the released parameter names."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from avslib.core.checkpoints import load_strict, read_weights
from avslib.core.errors import UsageError
from avslib.core.shapes import require_shape
from avslib.core.tensors import read_state_dict, save_tensors


class VGGish(nn.Module):
    """Log-mel patches [N, 1, 96, 64] to embeddings [N, 128], not negative (ReLU after the last layer).

    Source: Hershey et al., "CNN Architectures for Large-Scale Audio Classification", 2017. 72 million parameters.
    """

    dim = 128

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M"):
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 6 * 4, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128), nn.ReLU()
        )

    def forward(self, log_mel: Float[Tensor, "N 1 96 64"]) -> Float[Tensor, "N 128"]:
        """Embed each patch of `avslib.audio.log_mel`. Raises AvsError on a different shape."""
        require_shape("log_mel", log_mel, "N", 1, 96, 64)
        # the released weights come from a channels-last framework: flatten as [H, W, C]
        return self.embeddings(self.features(log_mel).permute(0, 2, 3, 1).flatten(1))


def load_vggish(path: str | Path) -> VGGish:
    """A frozen VGGish with the weights of a state dict file (.safetensors, or .pth as published).

    Its entries `pproc.*`, the PCA that quantises embeddings for AudioSet, are not used. Raises AvsError where the file
    is missing, is not a plain state dict, or lacks or adds entries.
    """
    safe = str(path).endswith(".safetensors")
    state = read_weights(path)[1] if safe else read_state_dict(path, "VGGish weights")
    model = VGGish()
    used = {name: value for name, value in state.items() if not str(name).startswith("pproc.")}
    load_strict(model, used, f"{path} does not hold VGGish's state dict", "get it as published")
    return model.eval().requires_grad_(False)


def import_vggish(source: str | Path, out: str | Path) -> Path:
    """Write VGGish's published weights as safetensors, only the entries that the network uses.

    Raises AvsError as `load_vggish`, and where `out` does not end in ``.safetensors`` or holds other weights.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: expected a file name that ends in .safetensors")
    model = load_vggish(source)
    save_tensors(out, model.state_dict(), replace=False)
    return out
