"""ResNets for 32x32 images (He et al. 2016, arXiv 1512.03385, §4.2): 6n+2 layers, widths 16-32-64, option-A shortcuts.

Parameter names follow the widely used checkpoints (``conv1 bn1 layer1.0.conv1 … linear``). The shortcut is a module of its
own that knows its channel map, so that the widths of the residual stages can be searched too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from automl_prune.networks import NETWORKS, NetworkDefinition, Preset


class ChannelMapShortcut(nn.Module):
    """Option A: subsample positions, and take each output channel from one input channel or from zero.

    ``source`` ``[out]`` holds an input channel per output channel; the number of input channels stands for zero.
    """

    source: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        before = (out_channels - in_channels) // 2
        source = torch.full((out_channels,), in_channels)
        source[before : before + in_channels] = torch.arange(in_channels)
        self.register_buffer("source", source)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, in, h, w]`` to ``[n, out, h / stride, w / stride]``."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.source)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with an identity or option-A shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same else ChannelMapShortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, in, h, w]`` to ``[n, channels, h / stride, w / stride]``."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A residual network with ``blocks`` basic blocks in each of three stages."""

    def __init__(
        self, blocks: int, num_classes: int, *, in_channels: int = 3, widths: tuple[int, int, int] = (16, 32, 64)
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[0], blocks, stride=1)
        self.layer2 = _stage(widths[0], widths[1], blocks, stride=2)
        self.layer3 = _stage(widths[1], widths[2], blocks, stride=2)
        self.linear = nn.Linear(widths[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[n, in, h, w]`` to logits ``[n, classes]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


_INNER = Preset(
    frozen=("conv1", "layer2.0.conv2", "layer3.0.conv2"),
    help="Only the inner width of each block, as ABCPruner searches them (residual stages keep their width).",
)

for depth in (20, 32, 44, 56, 110):
    NETWORKS.add(
        f"resnet{depth}",
        NetworkDefinition(
            name=f"resnet{depth}",
            build=lambda classes, blocks=(depth - 2) // 6: CifarResNet(blocks, classes),  # type: ignore[misc]
            input_shape=(3, 32, 32),
            num_classes=10,
            presets={"default": Preset(help="Every coupled group, residual stages too."), "published": _INNER},
            help=f"CIFAR ResNet-{depth}, option-A shortcuts (He et al. 2016).",
        ),
    )

NETWORKS.add(
    "digits_resnet",
    NetworkDefinition(
        name="digits_resnet",
        build=lambda classes: CifarResNet(1, classes, in_channels=1),
        input_shape=(1, 8, 8),
        num_classes=10,
        presets={"default": Preset()},
        help="Small residual network for the 8x8 digits that scikit-learn ships; used by the demo.",
        mean=(0.3,),
        std=(0.38,),
    ),
)
