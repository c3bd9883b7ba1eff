"""VGG-16 with batch normalisation for 32x32 images: thirteen convolutions and one linear layer (Li et al. 2017)."""

from torch import Tensor, nn

from automl_prune.networks import NETWORKS, NetworkDefinition, Preset

_PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Output channels of each convolution; 0 stands for 2x2 max pooling."""


class CifarVGG(nn.Module):
    """Convolutions with batch normalisation and ReLU, global average pooling, one linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _PLAN:
            if width:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[n, 3, h, w]`` to logits ``[n, classes]``."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


NETWORKS.add(
    "cifar_vgg16_bn",
    NetworkDefinition(
        name="cifar_vgg16_bn",
        build=CifarVGG,
        input_shape=(3, 32, 32),
        num_classes=10,
        presets={"default": Preset(help="All thirteen convolutions.")},
        help="CIFAR VGG-16 with batch normalisation and a single linear layer.",
    ),
)
