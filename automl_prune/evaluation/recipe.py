"""What the user may say about data and about how a candidate is made and scored."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from automl_prune.strict import STRICT

Positive = Annotated[int, Field(ge=1, le=2**31)]
PerChannel = Field(max_length=1024)

WITHOUT_CRITERION = ("scratch", "parent", "hypernetwork")
"""What ``inherit`` may be besides the name of a criterion."""


class Strict(BaseModel):
    """A frozen model that refuses unknown fields, NaN and infinity."""

    model_config = STRICT


class DatasetSpec(Strict):
    """Which images, and how they are divided.

    The select split is taken from the training images, stratified and seeded; the report split is the official test set
    (or a seeded part of the whole where there is none).
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    root: Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="A folder below the server's data root; null for the dataset's default place."
    )
    select_size: Positive = Field(5000, description="Training images held out to score candidates.")
    fit_size: Positive | None = Field(None, description="Use only this many images for training; null for all.")
    report_size: Positive | None = Field(None, description="Use only this many images for the report; null for all.")
    report_on: Literal["report", "select"] = Field(
        "report", description="Kept so that report = select can be refused.", json_schema_extra={"enum": ["report"]}
    )
    batch_size: Annotated[int, Field(ge=1, le=8192)] = 256
    augment: Literal["standard", "none"] = "standard"
    mean: Annotated[tuple[float, ...], PerChannel] | None = Field(
        None, description="Input normalisation; null for what the network expects."
    )
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], PerChannel] | None = None
    download: bool = Field(False, description="Fetch the dataset when it is absent and the machine is online.")


class FineTune(Strict):
    """Short training by SGD with Nesterov momentum: ``steps`` batches plus ``epochs`` passes over the fit split."""

    steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    epochs: Annotated[float, Field(ge=0, le=1000)] = 0.0
    lr: Annotated[float, Field(gt=0, le=10)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    schedule: Literal["cosine", "constant"] = Field("cosine", description="cosine falls to zero at the last step.")


class HypernetworkOrder(Strict):
    """How a PruningNet, which makes the weights of every candidate, is built and trained before the search.

    It is trained by SGD on a random choice of widths per step; for what the numbers were published with see the presets of
    the strategy metapruning.
    """

    file: Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="One that an earlier search trained, below the server's weights root; null trains one, or uses "
        "the server's own of an equal order again."
    )  # fmt: skip
    epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(30, description="Passes over the fit split.")
    lr: Annotated[float, Field(gt=0, le=10)] = 0.1
    schedule: Literal["linear", "steps", "cosine", "constant"] = Field(
        "cosine", description="linear and cosine fall to zero; steps: a tenth after 1/4, 1/2 and 3/4 each."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    hidden: Annotated[int, Field(ge=1, le=4096)] = Field(32, description="Units between the two layers that make a kernel.")
    affine: bool = Field(False, description="Give batch norms a scale and a shift, of their own for each width.")
    least_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Search only if its top-1 in training reached this part of the full network's; 0: in any case."
    )


class Recipe(Strict):
    """How a candidate is made and scored."""

    inherit: Annotated[str, Field(max_length=200)] = Field(
        "l1",
        description="A criterion that ranks channels, 'scratch' for fresh weights, 'parent' for those of the trial that the "
        "strategy builds on, or 'hypernetwork' for weights that a PruningNet makes.",
    )
    criterion: Annotated[str, Field(max_length=200)] = Field(
        "l1", description="Ranks channels where inherit is 'parent', and for the control 'global'."
    )
    scope: Literal["all", "convolutions"] = Field(
        "all",
        description="convolutions: only convolution weights, and linear layers whose inputs are whole, are inherited; "
        "normalisation, biases and other linear layers start afresh (ABCPruner's rule).",
    )
    reduction: Literal["mean", "sum", "max", "first"] = Field("mean", description="How scores of coupled layers combine.")
    recalibrate_batches: Annotated[int, Field(ge=0, le=10_000)] = Field(
        20, description="Fit batches from which batch-norm statistics are re-estimated; 0 keeps them."
    )
    reconstruct: Literal["none", "least_squares"] = Field(
        "none",
        description="least_squares: layers that lose inputs get the weights that best keep their outputs, before batch-norm "
        "statistics are re-estimated. Layers too large for it (2 GiB of sums in all) stay as they are; results name them.",
    )
    reconstruct_images: Positive = Field(3000, description="Fit images whose features in the full network are sampled.")
    reconstruct_points: Annotated[int, Field(ge=1, le=10_000)] = Field(10, description="Output positions sampled per image.")
    fine_tune: FineTune = FineTune()
    hypernetwork: HypernetworkOrder = Field(HypernetworkOrder(), description="Read where inherit is 'hypernetwork'.")
    select_images: Positive | None = Field(
        None, description="Select images that candidates are scored on; null for all. With fewer, the leaders are scored on "
        "twice as many, round by round, until the last are scored on all; these are recovered."
    )  # fmt: skip
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 runs forward passes under autocast.")

    @field_validator("recalibrate_batches")
    @classmethod
    def _made_weights_have_no_statistics(cls, batches: int, info: ValidationInfo) -> int:
        if not batches and info.data.get("inherit") == "hypernetwork":
            raise ValueError("weights from a hypernetwork come without batch-norm statistics; use 1 or more")
        return batches

    @field_validator("reconstruct")
    @classmethod
    def _fits_inherited_weights(cls, reconstruct: str, info: ValidationInfo) -> str:
        if reconstruct != "none" and info.data.get("inherit") in WITHOUT_CRITERION:
            raise ValueError(
                f"weights are reconstructed where a criterion ranks channels, not with {info.data['inherit']!r}"
            )
        return reconstruct
