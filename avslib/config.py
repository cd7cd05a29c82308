"""One typed configuration for a run: presets are YAML files, validated field by field against the classes below.

``load_config("mini", ["train.epochs=3", "loss.mi=0"])`` reads ``avslib/presets/mini.yaml`` (or any YAML file by path),
applies the overrides in order and validates. ``avs train -o``, papermill and Python set the same fields.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from avslib.core.errors import ConfigError
from avslib.core.parsing import LARGEST_YAML, first_line, parse_yaml, read_text

PRESETS = Path(__file__).parent / "presets"
# a checkpoint brings its configuration: one that asks for terabytes is refused before a network is built
WIDEST, LARGEST_SIDE = 1024, 2048
Width = Annotated[int, Field(ge=1, le=WIDEST)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class ModelConfig(_Section):
    """The network, as released; the smaller presets change sizes, never the architecture."""

    backbone: str = Field("pvt_v2_b5", description="a timm model with features at strides 4, 8, 16 and 32")
    pretrained: bool | str = Field(
        True,
        description="true: ImageNet weights (from a package that ships them, else timm's cache or hub); "
        "false: random; a path: a state dict of the backbone",
    )
    image_size: int = Field(
        224,
        ge=32,
        le=LARGEST_SIDE,
        multiple_of=32,
        description="side of the images in pixels, for which the latent encoders are built",
    )
    audio_encoder: Literal["vggish", "soundnet"] = Field("vggish", description="frozen network for the audio embedding")
    audio_weights: str | None = Field(None, description="path of the audio encoder's weights; soundnet ships its own")
    audio_dim: int = Field(128, ge=1, le=4 * WIDEST, description="length of the audio embedding")
    use_audio: bool = Field(True, description="false: zeros replace the embedding (the network without sound)")
    neck: Literal["basic", "aspp"] = Field(
        "basic", description="basic: 1x1, 3x3, 3x3 convolutions; aspp: four dilated ones"
    )
    channels: int = Field(128, ge=4, le=WIDEST, multiple_of=4, description="C, channels of neck, fusion and decoder")
    fusion: Literal["tpavi", "correlation_gate"] = Field(
        "tpavi",
        description="tpavi: all seconds of the clip interact; correlation_gate: a gate at each position, its "
        "correlation with the sound of its second",
    )
    latent: Literal["factorised", "unfactorised", "visual", "none"] = Field(
        "factorised",
        description="factorised: s_v, s_a and c; unfactorised: one code per modality, fused into one; visual: one code "
        "of the image; none: no codes and no posterior, a deterministic network",
    )
    code_fusion: Literal["linear", "product_of_experts"] = Field(
        "linear",
        description="how codes are fused: linear: a linear layer on the samples; product_of_experts: the product of "
        "their Gaussians and a standard Gaussian",
    )
    injection: Literal["neck", "all_levels", "decoder"] = Field(
        "neck",
        description="where the fused codes enter: neck: the coarsest map before the fusion, as released; all_levels: "
        "each of the four; decoder: the coarsest map after the fusion, as the paper's figure draws it",
    )
    latent_dim: int = Field(16, ge=1, le=WIDEST, description="K, length of each latent code")
    mi_dim: int = Field(6, ge=1, le=WIDEST, description="M, length of the mutual-information heads")
    image_encoder_channels: tuple[Width, Width, Width, Width, Width] = Field(
        (16, 32, 64, 128, 128), description="channels of the latent encoders of the image"
    )
    map_encoder_channels: tuple[Width, Width, Width, Width, Width] = Field(
        (16, 32, 64, 64, 64), description="channels of the latent encoders of audio and a map"
    )
    map_vector: int = Field(32, ge=1, le=WIDEST, description="length of the map's vector in those encoders")


class LossConfig(_Section):
    """Weights and forms of the loss terms; `official` is the released code's form, to the digit."""

    seg_prior: float = Field(1.0, ge=0, description="weight of the structure loss of the prior branch")
    seg_posterior: float = Field(1.0, ge=0, description="weight of the structure loss of the posterior branch")
    match: float = Field(0.5, ge=0, description="weight of the audio-visual matching loss (both branches)")
    kl: float = Field(0.01, ge=0, description="weight of the KL terms of s_v and s_a and of the divergence of c")
    mi: float = Field(0.001, ge=0, description="weight of the mutual-information bound, which is maximised")
    orthogonality: float = Field(0.001, ge=0, description="weight of the difference loss of shared and specific codes")
    structure_weighting: Literal["official", "per_pixel"] = Field(
        "official", description="official: the boundary weight cancels in the BCE part; per_pixel: it does not"
    )
    kl_scale: Literal["official", "consistent"] = Field(
        "official",
        description="standard deviation in the KL: official exp(logvar), consistent exp(logvar / 2) as in sampling",
    )
    divergence_c: Literal["official", "monte_carlo_js", "geometric_js", "symmetric_kl"] = Field(
        "official", description="divergence of prior and posterior of the shared code c; official ignores the means"
    )
    mi_bound: Literal["official", "full"] = Field(
        "official", description="official: Barber-Agakov bound without its log-variance; full: with it"
    )


class DataConfig(_Section):
    """Data and augmentation."""

    root: str | None = Field(None, description="folder in AVSBench layout (a Mini-AVS build is one)")
    task: Literal["s4", "ms3"] = Field("s4", description="s4: one source, train clips have one mask; ms3: several")
    frames: int = Field(5, ge=1, description="T, frames (and seconds) of a clip")
    train_frames: int | None = Field(None, ge=1, description="frames of a train clip; null: as frames")
    posterior_mask: Literal["annotated", "first_repeated"] = Field(
        "annotated",
        description="frames that the posterior sees in S4's train clips: annotated: the one with a mask; "
        "first_repeated: all, each with that mask",
    )
    flip_probability: float = Field(0.3, ge=0, le=1, description="probability of a horizontal flip in training")
    flip: Literal["official", "clip"] = Field(
        "official",
        description="official: S4 flips only frame 1, MS3 each frame independently; clip: all frames together",
    )
    max_clips: int | None = Field(None, ge=1, description="use only the first clips of each split (for quick tests)")
    packed: str | None = Field(
        None,
        description="folder or fsspec URL written by avs data pack, to stream the train split from; val and test are "
        "read from root",
    )
    skip: str | None = Field(
        None, description="file with names of clips to leave out, one per line (avs data check --fix-list writes it)"
    )
    max_corrupt: int = Field(
        0,
        ge=0,
        description="train clips that may be corrupt: another one takes the place of each, which is reported; more of "
        "them end the training",
    )
    workers: int = Field(2, ge=0, description="processes that read clips; 0 reads in the training process")
    timeout: int = Field(
        600,
        ge=0,
        description="seconds to wait for a train batch before its worker counts as stuck, which ends the training; "
        "0: no limit",
    )
    cache: str | None = Field(
        None, description="folder of cached audio embeddings; default: inside the data folder's parent"
    )

    def frames_of(self, split: str) -> int:
        """T of the clips of a split."""
        return self.train_frames or self.frames if split == "train" else self.frames


# fields of earlier versions, with the values at which they did nothing: configurations saved then still load
REMOVED = {"micro_batch": (None,), "nonfinite": ("stop",), "max_skipped": range(10**6)}


class TrainConfig(_Section):
    """The optimisation."""

    epochs: int = Field(15, ge=1, description="passes over the train split")
    batch_size: int = Field(4, ge=1, description="clips per step and process")
    accumulate: int = Field(
        1,
        ge=1,
        description="steps whose gradients are averaged before the weights change, for batches that memory cannot "
        "hold; batch statistics, matching and orthogonality loss are those of batch_size clips",
    )
    eval_batch_size: int = Field(4, ge=1, description="clips per step when scoring")
    eval_samples: int = Field(
        0, ge=0, description="0: score the mean code; k: the mean probability of k codes drawn from the prior"
    )
    optimizer: Literal["adam", "adamw"] = Field("adam", description="adam as released, or adamw")
    lr: float = Field(1e-4, gt=0, description="learning rate")
    backbone_lr_factor: float = Field(
        1.0, ge=0, description="backbone's learning rate as a multiple of lr; 0 freezes it"
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay")
    schedule: Literal["constant", "cosine"] = Field("constant", description="how the learning rate changes")
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises from 0")
    clip_grad: float | None = Field(None, gt=0, description="largest gradient norm; larger ones are scaled down")
    precision: Literal["no", "tf32", "bf16", "fp16"] = Field(
        "no",
        description="no: float32; tf32: float32 with matrix products in TF32 on a GPU (convolutions use it in any "
        "case, PyTorch's default); bf16, fp16: mixed precision",
    )
    channels_last: bool = Field(True, description="memory layout of the convolutions; true is faster, same results")
    checkpointing: bool = Field(
        False, description="recompute blocks in the backward pass: slightly slower, far less memory, identical results"
    )
    compile: bool = Field(False, description="torch.compile most modules, which takes minutes at the first step")
    seed: int = Field(1234, ge=0, description="seed of initialisation, clip order, flips and latent noise")
    deterministic: bool = Field(
        False,
        description="repeat a run to the bit on a GPU, too (a CPU does so in any case), by slower operations; one that "
        "has no deterministic form ends the training",
    )
    init_from: str | None = Field(
        None,
        description="weights to start from: a checkpoint folder or file, or a shipped one (mini-s4, "
        "mini-s4-without-audio)",
    )
    init_modules: tuple[str, ...] | None = Field(
        None, description="modules to take from init_from, such as [backbone, neck, fusion, decoder]; null: all"
    )
    sync_batch: bool = Field(
        False,
        description="true: several processes compute statistics and losses over all of their clips, as one process "
        "would; false: each over its own clips, which is faster",
    )
    checkpoint_every: int = Field(200, ge=1, description="steps between saved run states, for --resume")
    tensorboard: bool = Field(False, description="also log to the run's folder tensorboard/ (extra tensorboard)")

    @model_validator(mode="before")
    @classmethod
    def _without_removed(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: v for name, v in values.items() if name not in REMOVED or v not in REMOVED[name]}


class Config(_Section):
    """A whole run."""

    preset: str = Field("paper", description="preset that this configuration started from")
    model: Annotated[ModelConfig, Field(description="the network")] = ModelConfig()
    loss: Annotated[LossConfig, Field(description="the objective")] = LossConfig()
    data: Annotated[DataConfig, Field(description="data and augmentation")] = DataConfig()
    train: Annotated[TrainConfig, Field(description="the optimisation")] = TrainConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.model.audio_encoder == "soundnet" and self.model.audio_dim != 128:
            raise ValueError("model.audio_dim: expected 128, the length of a soundnet embedding")
        if self.train.init_modules is not None and self.train.init_from is None:
            raise ValueError("train.init_modules: selects modules of train.init_from; set that too")
        return self

    def replace(self, overrides: list[str] | dict[str, Any]) -> "Config":
        """A copy with overrides ``["section.field=value", ...]`` or ``{"section.field": value}``.

        Raises:
            AvsError: unknown field, or value out of range.
        """
        return _validate(_apply(self.model_dump(mode="json"), overrides), "overrides")


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in PRESETS.iterdir() if p.name.endswith(".yaml"))


def load_config(source: str | Path = "paper", overrides: list[str] | dict[str, Any] = ()) -> Config:
    """Read a preset by name, or a YAML file by path, and apply overrides such as ``"train.epochs=3"``.

    A file may begin with ``extends: NAME`` and then gives only the fields that differ from that preset.

    Raises:
        AvsError: unknown preset, unreadable file, unknown field (the message suggests one), value out of range.
    """
    path = PRESETS / f"{source}.yaml" if str(source) in preset_names() else Path(source)
    if not path.is_file():
        raise ConfigError(f"config {str(source)!r}: no such preset or file; presets are {', '.join(preset_names())}")
    text = read_text(path, LARGEST_YAML, ConfigError, "a configuration in YAML")
    values = parse_yaml(text, f"config {source}", ConfigError) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"config {source}: expected sections such as 'train:', found {type(values).__name__}")
    if "extends" in values:
        base = values.pop("extends")
        if base not in preset_names() or path == PRESETS / f"{base}.yaml":
            raise ConfigError(
                f"config {source}: extends {first_line(repr(base))}; expected a preset, one of "
                f"{', '.join(preset_names())}"
            )
        values = _apply(load_config(base).model_dump(mode="json"), _flat(values))
    return _validate(_apply(values, overrides), str(source))


def _flat(values: dict) -> dict[str, Any]:
    pairs = {}
    for section, fields in values.items():
        pairs |= (
            {f"{section}.{k}": v for k, v in fields.items()} if isinstance(fields, dict) else {f"{section}": fields}
        )
    return pairs


def _apply(values: dict, overrides: list[str] | dict[str, Any]) -> dict:
    pairs = overrides.items() if isinstance(overrides, dict) else [_parse(o) for o in overrides]
    values = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
    for key, value in pairs:
        section, _, field = key.partition(".")
        if not field:
            values[section] = value
        elif isinstance(values.setdefault(section, {}), dict):
            values[section][field] = value
    return values


def _parse(override: str) -> tuple[str, Any]:
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"override {first_line(override)!r}: expected section.field=value, such as train.epochs=3")
    return key.strip(), parse_yaml(value, f"override {first_line(override)!r}", ConfigError)


def _validate(values: dict, source: str) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:2])  # the rest names members of a union
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, field_names(), n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"Fields are {', '.join(field_names())}"
            raise ConfigError(f"config {source}: unknown field {first_line(name)!r}. {hint}") from None
        given = f" (got {first_line(repr(first['input']))})" if not isinstance(first["input"], dict) else ""
        raise ConfigError(f"config {source}: {name or 'value'}: {first['msg']}{given}") from None


def field_names() -> list[str]:
    """Every field as ``section.field``."""
    sections = {section: info.annotation for section, info in Config.model_fields.items() if section != "preset"}
    return ["preset", *(f"{section}.{field}" for section, kind in sections.items() for field in kind.model_fields)]
