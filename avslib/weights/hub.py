"""`from_pretrained`, `save_pretrained` and `push_to_hub`, by huggingface_hub's mixin over our checkpoint folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from avslib.core.errors import WeightsError

CARD = """# {name}

ECMVAE (*Multimodal Variational Auto-encoder based Audio-Visual Segmentation*, ICCV 2023) with backbone
`{backbone}`, {size} x {size} pixels, sound embedding `{audio}`: given frames and their sound, it marks the pixels of
what sounds. A checkpoint for [avslib](https://github.com/avslib/avslib), an independent implementation.

```python
from avslib.video.predictor import Predictor

predictor = Predictor.from_checkpoint("this folder, or the name of this repository")
```

## Scores

{scores}
"""


class Pretrained(ModelHubMixin):
    """Saves and loads a model as a checkpoint folder: ``model.safetensors``, ``config.yaml``, and a model card.

    ``save_pretrained(folder, model_card_kwargs={"records": [...]})`` writes the scores of run records into the card;
    ``push_to_hub(repo_id, model_card_kwargs=...)`` uploads the same folder.
    """

    config: Any

    def _save_pretrained(self, save_directory: Path) -> None:
        # late: checkpoints stand above the models
        from avslib.weights.checkpoints import save_checkpoint

        save_checkpoint(save_directory, self)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str = "cpu",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """A model from a checkpoint folder, the name of a shipped one, or a repository on the Hub, in eval mode.

        Args:
            source: folder, name or repository id ("name/repository"); a folder of that name comes first.
            device: where the model goes.
            revision, cache_dir, local_files_only, force_download, token: of the Hub's download.

        Raises:
            AvsError: neither of the three, or a damaged checkpoint (see :func:`avslib.load_checkpoint`).
        """
        from avslib.weights.checkpoints import CONFIG, WEIGHTS, load_checkpoint, shipped_names

        if str(source) in shipped_names() or Path(source).exists():
            return load_checkpoint(source, device)
        try:
            folder = snapshot_download(
                str(source),
                allow_patterns=[WEIGHTS, CONFIG],
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
                token=token,
            )
        except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
            raise WeightsError(
                f"model {str(source)!r}: no such folder, none of the shipped checkpoints "
                f"({', '.join(shipped_names())}), and the Hub does not give it ({type(error).__name__})"
            ) from None
        return load_checkpoint(folder, device)

    def generate_model_card(self, records: Sequence[Any] = ()) -> ModelCard:
        """The card of this model, with the tables of the run records, if there are any."""
        from avslib.study.results import table

        m = self.config.model
        kinds = sorted({(record.task, record.data) for record in records})
        scores = "\n\n".join(table(records, task, data, "md") for task, data in kinds)
        text = CARD.format(
            name=f"ECMVAE, {m.backbone}",
            backbone=m.backbone,
            size=m.image_size,
            audio=m.audio_encoder,
            scores=scores or "No run record came with these weights, so there is no figure to state.",
        )
        data = ModelCardData(
            library_name="avslib", license="apache-2.0", tags=["audio-visual-segmentation", "variational-autoencoder"]
        )
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
