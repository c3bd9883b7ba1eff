"""Every torchvision classification model, by its torchvision name.

torchvision itself is imported when one of them, or a list of all networks, is asked for: that takes as long as torch.
"""

from functools import partial

from torch import nn

from automl_prune.networks import NETWORKS, NetworkDefinition

_SIZES = {"inception_v3": 299}
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


def build(num_classes: int, *, name: str) -> nn.Module:
    """A freshly initialised torchvision model, without auxiliary classifiers."""
    import torchvision

    options = {"aux_logits": False, "init_weights": True} if name in _AUXILIARY else {}
    module: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    return module


@NETWORKS.later
def register() -> None:
    """Register them all."""
    import torchvision

    for model_name in torchvision.models.list_models(module=torchvision.models):
        size = _SIZES.get(model_name, 224)
        NETWORKS.add(
            model_name,
            NetworkDefinition(
                name=model_name,
                build=partial(build, name=model_name),
                input_shape=(3, size, size),
                num_classes=1000,
                help="torchvision classification model.",
                training_only=_AUXILIARY.get(model_name, ()),
            ),
        )
