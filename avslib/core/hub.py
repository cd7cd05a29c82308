"""`from_pretrained`, `save_pretrained` and `push_to_hub` by huggingface_hub's mixin, over our checkpoint folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import Tensor, nn

from avslib.core.checkpoint_format import (
    CONFIG,
    WEIGHTS,
    config_path,
    load_strict,
    read_weights,
    require_own_config,
    shipped_names,
    weights_path,
    write_checkpoint,
)
from avslib.core.errors import WeightsError
from avslib.core.parsing import first_line

CARD = """# ECMVAE, {m.backbone}

ECMVAE (*Multimodal Variational Auto-encoder based Audio-Visual Segmentation*, ICCV 2023) with backbone
`{m.backbone}`, {m.image_size} x {m.image_size} pixels, sound embedding `{m.audio_encoder}`: given frames and their
sound, it marks the pixels of what sounds. A checkpoint for [avslib](https://github.com/avslib/avslib), an independent
implementation.

```python
from avslib.video.predictor import Predictor

predictor = Predictor.from_checkpoint("this folder, or the name of this repository")
```

## Scores

{scores}
"""


class Pretrained(nn.Module, ModelHubMixin):
    """A network that saves and loads itself as a checkpoint folder, and keeps its configuration in ``config``.

    ``save_pretrained(folder, model_card_kwargs={"scores": "..."})`` writes a model card with these scores beside the
    weights; ``push_to_hub(repo_id, model_card_kwargs=...)`` uploads the same folder.
    """

    config: Any
    # how a configuration file is read, which is above this module
    read_config: Callable[[Path], Any]

    def load_weights(self, state: dict[str, Tensor], source: str) -> None:
        """Load a state dict that has exactly this network's names and shapes; `source` names it in errors."""
        m = self.config.model
        what = f"{source} do not fit {m.backbone} with {m.channels} channels"
        load_strict(self, state, what, "use the config that they were trained with")

    def save(self, folder: str | Path, *, half: bool = False, replace: bool = True) -> Path:
        """See :func:`avslib.weights.checkpoints.save_checkpoint`."""
        text = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        write_checkpoint(Path(folder), self.state_dict(), text, half=half, replace=replace)
        return Path(folder)

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)

    @classmethod
    def from_folder(cls, source: str | Path, device: Any = "cpu") -> Self:
        """See :func:`avslib.weights.checkpoints.load_checkpoint`."""
        weights = weights_path(source)
        config = config_path(weights)
        try:
            model = cls(cls.read_config(config).replace({"model.pretrained": False}))
        except (MemoryError, RuntimeError) as error:
            reason = f"{CONFIG} beside it asks for a network that cannot be built ({first_line(error)})"
            raise WeightsError(f"checkpoint {weights}: {reason}; copy the whole checkpoint folder again") from None
        state, metadata = read_weights(weights)
        ours = model.state_dict()
        model.load_weights({k: v.to(ours[k].dtype) if k in ours else v for k, v in state.items()}, f"weights {weights}")
        require_own_config(config, metadata)
        return model.to(device).eval()

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str = "cpu", **download: Any) -> Self:  # type: ignore[override]
        """A model from a checkpoint folder, the name of a shipped one, or a repository on the Hub, in eval mode.

        `download` are options of :func:`huggingface_hub.snapshot_download`: revision, cache_dir, token and the like.
        Raises WeightsError where `source` is none of the three, or a damaged checkpoint.
        """
        if str(source) in shipped_names() or Path(source).exists():
            return cls.from_folder(source, device)
        try:
            folder = snapshot_download(str(source), allow_patterns=[WEIGHTS, CONFIG], **download)
        except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
            raise WeightsError(
                f"model {str(source)!r}: no such folder, not one of the shipped checkpoints "
                f"({', '.join(shipped_names())}), and the Hub does not give it ({type(error).__name__})"
            ) from None
        return cls.from_folder(folder, device)

    def generate_model_card(self, scores: str = "") -> ModelCard:
        """The card of this model; `scores` is Markdown, such as a table of run records."""
        text = CARD.format(m=self.config.model, scores=scores or "No scores were saved with these weights.")
        tags = ["audio-visual-segmentation", "variational-autoencoder"]
        data = ModelCardData(library_name="avslib", license="apache-2.0", tags=tags)
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
