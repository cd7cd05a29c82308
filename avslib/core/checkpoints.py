"""Checkpoint folders: ``model.safetensors`` holds the weights, ``config.yaml`` the resolved configuration.

The weights carry a checksum of their own and that of the configuration; both are compared on loading. The Hub's
`from_pretrained`, `save_pretrained` and `push_to_hub` (huggingface_hub's mixin) work on the same folders.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from avslib.core.devices import select_device
from avslib.core.errors import WeightsError
from avslib.core.files import atomic_path
from avslib.core.parsing import first_line
from avslib.core.tensors import load_tensors, plain_tensor, save_tensors

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
CONFIG_HASH, EDITED = "config_sha256", "# edited"
ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED = ASSETS / "checkpoints"


def shipped_names() -> list[str]:
    """Names of the checkpoints that come with the package; they stand for their folders."""
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{WEIGHTS}"))


def read_weights(source: str | Path) -> tuple[Path, dict[str, Tensor], dict[str, str]]:
    """The weights file of a checkpoint (a folder, the file itself or a shipped name), its tensors and metadata.

    Raises WeightsError: `source` is none of these, or the file is damaged.
    """
    path = SHIPPED / source if str(source) in shipped_names() else Path(source)
    if (path / "best" / WEIGHTS).is_file():
        raise WeightsError(f"checkpoint {source}: the folder of a run; name its checkpoint, {path / 'best'}")
    path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        what = f"no such file, not a folder with {WEIGHTS} in it, and not one of the shipped checkpoints"
        raise WeightsError(f"checkpoint {source}: {what} ({', '.join(shipped_names())})")
    try:
        return path, *load_tensors(path)
    except (SafetensorError, OSError) as error:
        advice = "get it again, or import a released .pth by `avs weights import`"
        raise WeightsError(f"checkpoint {path}: not a complete safetensors file ({error}); {advice}") from None


def load_strict(module: nn.Module, state: Mapping[str, Tensor], what: str, advice: str) -> None:
    """Load a state dict whose names and shapes must be exactly the module's.

    Raises WeightsError: `what`, the first tensors that are missing, unknown or of a different shape, and `advice`.
    """
    wanted = module.state_dict()
    problems = [f"{k} is missing" for k in wanted if k not in state]
    problems += [f"{k} is unknown" for k in state if k not in wanted]
    for name in (k for k in wanted if k in state):
        expected = tuple(wanted[name].shape)
        if not plain_tensor(state[name]):
            problems.append(f"{name} is not a dense tensor, expected shape {expected}")
        elif state[name].shape != expected:
            problems.append(f"{name} has shape {tuple(state[name].shape)}, expected {expected}")
    if problems:
        raise WeightsError(f"{what}: {listed(problems)}; {advice}")
    module.load_state_dict(state)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a sentence: all of them, or the first `most` and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b (and 1 more)'
    """
    more = len(names) - most
    return ", ".join(first_line(name) for name in names[:most]) + (f" (and {more} more)" if more > 0 else "")


class Pretrained(nn.Module, ModelHubMixin):
    """A network that saves and loads itself as a checkpoint folder, and keeps its configuration in ``config``.

    ``save_pretrained(folder)`` and ``push_to_hub(repo_id)`` add a model card, with the Markdown that
    ``model_card_kwargs={"scores": "..."}`` gives.
    """

    config: Any
    # how a configuration file is read, which is above this module
    read_config: Callable[[Path], Any]

    def load_weights(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load a state dict that has exactly this network's names and shapes; `source` names it in errors."""
        m = self.config.model
        what = f"{source} do not fit {m.backbone} with {m.channels} channels"
        load_strict(self, state, what, "use the config that they were trained with")

    def _save_pretrained(self, save_directory: Path) -> None:
        save_checkpoint(save_directory, self)

    @classmethod
    def from_folder(cls, source: str | Path, device: Any = "cpu") -> Self:
        """See :func:`avslib.weights.checkpoints.load_checkpoint`."""
        device = select_device(device) if isinstance(device, str) else device
        path, state, metadata = read_weights(source)
        config = path.with_name(CONFIG)
        if not config.is_file():
            raise WeightsError(f"checkpoint {path}: {CONFIG} is missing beside it; copy the whole checkpoint folder")
        try:
            model = cls(cls.read_config(config).replace({"model.pretrained": False}))
        except (MemoryError, RuntimeError) as error:
            why = f"{CONFIG} beside it describes a network that cannot be built ({first_line(error)})"
            raise WeightsError(f"checkpoint {path}: {why}; copy the whole checkpoint folder again") from None
        model.load_weights(state, f"weights {path}")
        text = config.read_text(encoding="utf-8")
        if metadata.get(CONFIG_HASH, _text_sha256(text)) != _text_sha256(text) and not text.rstrip().endswith(EDITED):
            why = f"not the {CONFIG} that {WEIGHTS} was saved with: it is damaged, cut off or edited"
            advice = f"copy the whole folder again, or add the last line {EDITED!r} if you changed it yourself"
            raise WeightsError(f"checkpoint {config}: {why}; {advice}")
        return model.to(device).eval()

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str = "cpu", **download: Any) -> Self:  # type: ignore[override]
        """A model in eval mode from a checkpoint folder, the name of a shipped one, or a repository on the Hub.

        A folder comes before a repository of the same name. `download` holds options of
        :func:`huggingface_hub.snapshot_download`, such as revision, token and local_files_only.

        Raises WeightsError: `source` is none of the three, or a damaged checkpoint (see
        :func:`avslib.load_checkpoint`).
        """
        if str(source) not in shipped_names() and not Path(source).exists():
            try:
                source = snapshot_download(str(source), allow_patterns=[WEIGHTS, CONFIG], **download)
            except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
                why = f"no such folder, not one of the shipped checkpoints ({', '.join(shipped_names())})"
                hub = f"and the Hub does not give it ({type(error).__name__})"
                raise WeightsError(f"model {str(source)!r}: {why}, {hub}") from None
        return cls.from_folder(source, device)

    def generate_model_card(self, scores: str = "No scores were saved with these weights.") -> ModelCard:
        """The card of this model; `scores` is Markdown, such as a table of run records."""
        tags = ["audio-visual-segmentation", "variational-autoencoder"]
        data = ModelCardData(library_name="avslib", license="apache-2.0", tags=tags)
        text = (ASSETS / "model_card.md").read_text(encoding="utf-8").format(m=self.config.model, scores=scores)
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def save_checkpoint(folder: str | Path, model: Pretrained, *, half: bool = False, replace: bool = True) -> Path:
    """Write `folder`/model.safetensors and config.yaml, each of them atomically.

    `half` stores floating-point tensors as float16 where they fit; they are read back as float32. With `replace` False,
    a different checkpoint in `folder` is kept and raises an OutputError.
    """
    folder, state = Path(folder), model.state_dict()
    if half:
        fits = {k for k, v in state.items() if v.is_floating_point() and v.half().isfinite().all()}
        state = {k: v.half() if k in fits else v for k, v in state.items()}
    text = yaml.safe_dump(model.config.model_dump(mode="json"), sort_keys=False)
    save_tensors(folder / WEIGHTS, state, {CONFIG_HASH: _text_sha256(text)}, replace=replace)
    with atomic_path(folder / CONFIG, replace=replace) as path:
        path.write_text(text, encoding="utf-8")
    return folder


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
