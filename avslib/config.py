"""One typed configuration for a run: presets are YAML files, validated field by field against the classes below.

``load_config("mini", ["train.epochs=3", "loss.mi=0"])`` reads ``avslib/presets/mini.yaml`` (or any YAML file by path),
applies the overrides in order and validates. ``avs train -o``, papermill and Python set the same fields.
"""

import difflib
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from avslib.core.errors import ConfigError
from avslib.core.parsing import LARGEST_YAML, first_line, parse_yaml, read_text

PRESETS = Path(__file__).parent / "presets"
# a checkpoint brings its configuration: one that asks for terabytes is refused before a network is built
WIDEST, LARGEST_SIDE = 1024, 2048
Width = Annotated[int, Field(ge=1, le=WIDEST)]


class _Section(BaseModel):
    """Each field is described in its `Field`, or on the line after it where that is too long."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelConfig(_Section):
    """The network, as released; the smaller presets change sizes, never the architecture."""

    backbone: str = Field("pvt_v2_b5", description="a timm model with features at strides 4, 8, 16 and 32")
    pretrained: bool | str = True
    """true: ImageNet weights (packaged, else from timm's cache or hub); false: random; a path: a state dict"""
    image_size: int = Field(224, ge=32, le=LARGEST_SIDE, multiple_of=32)
    """side of the images in pixels, for which the latent encoders are built"""
    audio_encoder: Literal["vggish", "soundnet"] = Field("vggish", description="frozen network for the audio embedding")
    audio_weights: str | None = Field(None, description="path of the audio encoder's weights; soundnet ships its own")
    audio_dim: int = Field(128, ge=1, le=4 * WIDEST, description="length of the audio embedding")
    use_audio: bool = Field(True, description="false: zeros replace the embedding (the network without sound)")
    neck: Literal["basic", "aspp"] = "basic"
    """basic: 1x1, 3x3, 3x3 convolutions; aspp: four dilated ones"""
    channels: int = Field(128, ge=4, le=WIDEST, multiple_of=4, description="C, channels of neck, fusion and decoder")
    fusion: Literal["tpavi", "correlation_gate"] = "tpavi"
    """tpavi: all seconds of the clip interact; correlation_gate: a gate at each position, by its second's sound"""
    fusion_span: Literal["clip", "second"] = "clip"
    """seconds that the fusion sees together: clip: all, as released, blind to their order; second: each by itself"""
    latent: Literal["factorised", "unfactorised", "visual", "none"] = "factorised"
    """factorised: s_v, s_a and c; unfactorised: one code per modality; visual: one of the image; none: no codes"""
    code_fusion: Literal["linear", "product_of_experts"] = "linear"
    """linear: a linear layer on the codes' samples; product_of_experts: their Gaussians times a standard one"""
    injection: Literal["neck", "all_levels", "decoder"] = "neck"
    """fused codes enter: neck: before the fusion, as released; all_levels: each map; decoder: after the fusion"""
    sampling: Literal["official", "corrected"] = "official"
    """drawn codes go through: official: the prior's decoder, noise per frame; corrected: the posterior's, per clip"""
    latent_dim: int = Field(16, ge=1, le=WIDEST, description="K, length of each latent code")
    mi_dim: int = Field(6, ge=1, le=WIDEST, description="M, length of the mutual-information heads")
    image_encoder_channels: tuple[Width, Width, Width, Width, Width] = (16, 32, 64, 128, 128)
    """channels of the latent encoders of the image"""
    map_encoder_channels: tuple[Width, Width, Width, Width, Width] = (16, 32, 64, 64, 64)
    """channels of the latent encoders of audio and a map"""
    map_vector: int = Field(32, ge=1, le=WIDEST, description="length of the map's vector in those encoders")


class LossConfig(_Section):
    """Weights and forms of the loss terms; `official` is the released code's form, to the digit."""

    seg_prior: float = Field(1.0, ge=0, description="weight of the structure loss of the prior branch")
    seg_posterior: float = Field(1.0, ge=0, description="weight of the structure loss of the posterior branch")
    match: float = Field(0.5, ge=0, description="weight of the audio-visual matching loss (both branches)")
    seg_samples: float = Field(0.0, ge=0)
    """weight of the soft minimum over samples of the prior's codes; needs model.sampling corrected"""
    sample_count: int = Field(3, ge=1, description="samples per clip in that term")
    sample_temperature: float = Field(0.05, gt=0, description="its temperature: towards 0 only the best sample counts")
    kl: float = Field(0.01, ge=0, description="weight of the KL terms of s_v and s_a, and of c's divergence by default")
    kl_c: float | None = Field(None, ge=0, description="weight of the divergence of c; null: as kl")
    kl_warmup: float = Field(0.0, ge=0, le=1, description="share of the steps over which these weights rise from 0")
    mi: float = Field(0.001, ge=0, description="weight of the mutual-information bound, which is maximised")
    orthogonality: float = Field(0.001, ge=0, description="weight of the difference loss of shared and specific codes")
    structure_weighting: Literal["official", "per_pixel"] = "official"
    """official: the boundary weight cancels in the BCE part; per_pixel: it does not"""
    orthogonality_form: Literal["official", "correlation"] = "official"
    """official: the difference loss, which shrinks the codes; correlation: of the means, 0 if independent"""
    kl_scale: Literal["official", "consistent"] = "official"
    """standard deviation in the KL: official: exp(logvar); consistent: exp(logvar / 2) as in sampling"""
    divergence_c: Literal["official", "monte_carlo_js", "geometric_js", "symmetric_kl", "kl"] = "official"
    """divergence of prior and posterior of the shared code c; official ignores the means; kl: KL(posterior || prior)"""
    mi_bound: Literal["official", "full"] = "official"
    """official: Barber-Agakov bound without its log-variance; full: with it"""

    def weights(self, progress: float = 1.0) -> dict[str, float]:
        """The weight of each term by name; `progress`: share of the steps that are done, for ``kl_warmup``."""
        rise = min(1.0, progress / self.kl_warmup) if self.kl_warmup else 1.0
        return {
            "seg_prior": self.seg_prior,
            "seg_posterior": self.seg_posterior,
            "match_prior": self.match,
            "match_posterior": self.match,
            "kl_sv": rise * self.kl,
            "kl_sa": rise * self.kl,
            "divergence_c": rise * (self.kl if self.kl_c is None else self.kl_c),
            "mi": -self.mi,  # the bound is maximised
            "orthogonality": self.orthogonality,
            "seg_samples": self.seg_samples,
        }


class DataConfig(_Section):
    """Data and augmentation."""

    root: str | None = Field(None, description="folder in AVSBench layout (a Mini-AVS build is one)")
    task: Literal["s4", "ms3"] = Field("s4", description="s4: one source, train clips have one mask; ms3: several")
    frames: int = Field(5, ge=1, description="T, frames (and seconds) of a clip")
    train_frames: int | None = Field(None, ge=1)
    """frames of a train clip, null: as frames; MS3 draws in each epoch where they begin, S4 takes the first"""
    posterior_mask: Literal["annotated", "first_repeated"] = "annotated"
    """what the posterior sees of S4's train clips: annotated: the frame with a mask; first_repeated: all, with it"""
    flip_probability: float = Field(0.3, ge=0, le=1, description="probability of a horizontal flip in training")
    flip: Literal["official", "clip"] = "official"
    """official: S4 flips only frame 1, MS3 each frame independently; clip: all frames together"""
    max_clips: int | None = Field(None, ge=1, description="use only the first clips of each split (for quick tests)")
    packed: str | None = None
    """folder or fsspec URL written by avs data pack: train clips are streamed from it, val and test read from root"""
    compose: bool = False
    """true: train clips are composed as they are read, new ones in each epoch; root names a Mini-AVS build"""
    skip: str | None = None
    """file with names of clips to leave out, one per line (avs data check --fix-list writes it)"""
    max_corrupt: int = Field(0, ge=0)
    """train clips that may be corrupt: each is reported and replaced by a different one; more end the training"""
    workers: int = Field(2, ge=0, description="processes that read clips; 0 reads in the training process")
    timeout: int = Field(600, ge=0)
    """seconds to wait for a train batch before its worker counts as stuck, which ends the training; 0: no limit"""
    cache: str | None = None
    """folder of cached audio embeddings; null: inside the data folder's parent"""

    def frames_of(self, split: str) -> int:
        """T of the clips of a split."""
        return min(self.train_frames or self.frames, self.frames) if split == "train" else self.frames


class TrainConfig(_Section):
    """The optimisation."""

    epochs: int = Field(15, ge=1, description="passes over the train split")
    batch_size: int = Field(4, ge=1, description="clips per step and process")
    accumulate: int = Field(1, ge=1)
    """steps whose gradients are averaged before the weights change; batch statistics are those of batch_size clips"""
    eval_batch_size: int = Field(4, ge=1, description="clips per step when scoring")
    eval_samples: int = Field(0, ge=0)
    """0: score the mean code; k: the mean probability of k codes drawn from the prior"""
    optimizer: Literal["adam", "adamw"] = Field("adam", description="adam as released, or adamw")
    lr: float = Field(1e-4, gt=0, description="learning rate")
    backbone_lr_factor: float = Field(1.0, ge=0)
    """backbone's learning rate as a multiple of lr; 0 freezes it"""
    weight_decay: float = Field(0.0, ge=0, description="weight decay")
    schedule: Literal["constant", "cosine"] = Field("constant", description="how the learning rate changes")
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises from 0")
    clip_grad: float | None = Field(None, gt=0, description="largest gradient norm; larger ones are scaled down")
    precision: Literal["no", "tf32", "bf16", "fp16"] = "no"
    """no: float32; tf32: float32 with matrix products in TF32 on a GPU; bf16, fp16: mixed precision"""
    channels_last: bool = Field(True, description="memory layout of the convolutions; true is faster, same results")
    checkpointing: bool = False
    """recompute blocks in the backward pass: slightly slower, far less memory, identical results"""
    compile: bool = Field(False, description="torch.compile most modules, which takes minutes at the first step")
    seed: int = Field(1234, ge=0, description="seed of initialisation, clip order, flips and latent noise")
    deterministic: bool = False
    """repeat a run to the bit on a GPU by slower operations; one without a deterministic form ends the training"""
    init_from: str | None = None
    """weights to start from: a checkpoint folder or file, or a shipped one such as mini-s4 (`avs weights list`)"""
    init_modules: tuple[str, ...] | None = None
    """modules to take from init_from, such as [backbone, neck, fusion, decoder]; null: all"""
    sync_batch: bool = False
    """true: statistics and losses over the clips of all processes, as in one process; false: of each, faster"""
    keep: Literal["best", "last"] = "best"
    """the checkpoint to keep and score: of the epoch with the best J on val, or of the last epoch"""
    checkpoint_every: int = Field(200, ge=1, description="steps between saved run states, for --resume")
    tensorboard: bool = Field(False, description="also log to the run's folder tensorboard/ (extra tensorboard)")


class Config(_Section):
    """A whole run."""

    preset: str = Field("paper", description="preset that this configuration started from")
    model: ModelConfig = Field(ModelConfig(), description="the network")
    loss: LossConfig = Field(LossConfig(), description="the objective")
    data: DataConfig = Field(DataConfig(), description="data and augmentation")
    train: TrainConfig = Field(TrainConfig(), description="the optimisation")

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.model.audio_encoder == "soundnet" and self.model.audio_dim != 128:
            raise ValueError("model.audio_dim: expected 128, the length of a soundnet embedding")
        if self.loss.seg_samples and self.model.sampling != "corrected":
            raise ValueError("loss.seg_samples: needs model.sampling corrected")
        if self.model.sampling == "corrected" and self.model.code_fusion != "linear":
            raise ValueError("model.sampling: corrected needs model.code_fusion linear")
        if self.data.compose and (self.data.packed is not None or self.data.skip is not None):
            raise ValueError("data.compose: new clips cannot come from data.packed, nor be named in data.skip")
        if self.train.init_modules is not None and self.train.init_from is None:
            raise ValueError("train.init_modules: selects modules of train.init_from; set that too")
        return self

    def replace(self, overrides: list[str] | dict[str, Any]) -> "Config":
        """A copy with overrides ``["section.field=value", ...]`` or ``{"section.field": value}``; see `load_config`."""
        return _validate(_apply(self.model_dump(mode="json"), overrides), "overrides")


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def field_types() -> dict[str, Any]:
    """The type of every field by its name, ``section.field``."""
    sections = {section: info.annotation for section, info in Config.model_fields.items() if section != "preset"}
    fields = {f"{name}.{f}": i.annotation for name, kind in sections.items() for f, i in kind.model_fields.items()}
    return {"preset": str, **fields}


def load_config(source: str | Path = "paper", overrides: list[str] | dict[str, Any] = ()) -> Config:
    """Read a preset by name, or a YAML file by path, and apply overrides.

    A file may begin with ``extends: NAME`` and then gives only the fields that differ from that preset. An override is
    read by the type of its field: text stays as typed, numbers are decimal, ``null`` and lists such as ``[1, 2]`` serve
    the fields that take them, and text in double quotes is read without them.

    >>> load_config("mini", ["train.precision=no", "train.seed=010", "data.root=/data/mini #2"]).train.seed
    10

    Raises AvsError: unknown preset, unreadable file, unknown field (the message suggests one), value out of range.
    """
    path = PRESETS / f"{source}.yaml" if str(source) in preset_names() else Path(source)
    if not path.is_file():
        raise ConfigError(f"config {str(source)!r}: no such preset or file; presets are {', '.join(preset_names())}")
    text = read_text(path, LARGEST_YAML, ConfigError, "a configuration in YAML")
    values = parse_yaml(text, f"config {source}", ConfigError) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"config {source}: expected sections such as 'train:', found {type(values).__name__}")
    base = values.pop("extends", None)
    if base is not None:
        names = [name for name in preset_names() if path != PRESETS / f"{name}.yaml"]
        if base not in names:
            given = first_line(repr(base))
            raise ConfigError(f"config {source}: extends {given}; expected a preset, one of {', '.join(names)}")
        values = _apply(load_config(base).model_dump(mode="json"), values)
    return _validate(_apply(values, overrides), str(source))


def _apply(values: dict, overrides: list[str] | dict[str, Any]) -> dict:
    """`values` with overrides; a section in a dictionary changes only the fields that it has."""
    values = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
    for key, value in overrides.items() if isinstance(overrides, dict) else map(_read, overrides):
        section, _, field = str(key).partition(".")
        fields = {field: value} if field else value
        if isinstance(fields, dict) and isinstance(values.setdefault(section, {}), dict):
            values[section] |= fields
        else:
            values[section] = value
    return values


def _read(override: str) -> tuple[str, Any]:
    """Field and value of an override; pydantic converts text to the numbers, switches and names that a field takes."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {first_line(override)!r}: expected section.field=value, such as train.epochs=3")
    kind = field_types().get(key.strip())
    takes = (kind, *get_args(kind)) if get_origin(kind) is not tuple else (kind,)
    value: Any = text
    if text in ("", "null") and NoneType in takes:
        value = None
    elif text.lower() in ("true", "false") and bool in takes:
        value = text.lower() == "true"
    elif (text.startswith(("[", "{")) and str not in takes) or (text[:1] == text[-1:] == '"' and len(text) > 1):
        value = parse_yaml(text, f"override {first_line(override)!r}", ConfigError)
    return key.strip(), value


def _validate(values: dict, source: str) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:2])  # the rest names members of a union
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, field_types(), n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"Fields are {', '.join(field_types())}"
            raise ConfigError(f"config {source}: unknown field {first_line(name)!r}. {hint}") from None
        given = f" (got {first_line(repr(first['input']))})" if not isinstance(first["input"], dict) else ""
        raise ConfigError(f"config {source}: {name or 'value'}: {first['msg']}{given}") from None
