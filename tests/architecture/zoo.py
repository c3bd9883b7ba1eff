"""Small networks, each with one pattern that people write and that coupling analysis gets wrong somewhere.

An entry says which layers must come out *free* (every channel they put out can be cut) and which must be *frozen*, with a
pattern of the reason. Layers that it does not name may be either: what is asked of all is that cutting is exact.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torchvision.ops import FrozenBatchNorm2d

Forward = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    Attributes:
        name: The name of its forward function.
        forward: Takes the module and a batch.
        parts: Layers, parameters and buffers by attribute name.
        free: Layers (or bare parameters) whose outputs must be searchable.
        frozen: Layers that must not be, with a regular expression for the reason.
        shape: One sample.
        symbols: Inputs are integers below this; 0 for real numbers.
        silent: Zero channels stay zero until they are taken in, so that silencing the producers must equal cutting.
    """

    name: str
    forward: Forward
    parts: Mapping[str, Any]
    free: tuple[str, ...] = ()
    frozen: Mapping[str, str] = field(default_factory=dict)
    shape: tuple[int, ...] = (3, 8, 8)
    symbols: int = 0
    silent: bool = True

    def build(self) -> nn.Module:
        """A module of its own."""
        return ZooNetwork(self.name)

    def example(self, seed: int = 0, batch: int = 2) -> Tensor:
        """A random batch."""
        generator = torch.Generator().manual_seed(seed)
        if self.symbols:
            return torch.randint(self.symbols, (batch, *self.shape), generator=generator)
        return torch.randn(batch, *self.shape, generator=generator)


ZOO: dict[str, Entry] = {}


class ZooNetwork(nn.Module):
    """A module with the parts and the forward pass of an entry."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.entry = name
        for key, part in copy.deepcopy(dict(ZOO[name].parts)).items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(key, part)
            else:
                setattr(self, key, part)

    def forward(self, x: Tensor) -> Any:
        return ZOO[self.entry].forward(self, x)


def network(
    free: str = "",
    frozen: Mapping[str, str] | None = None,
    shape: tuple[int, ...] = (3, 8, 8),
    symbols: int = 0,
    silent: bool = True,
    **parts: Any,
) -> Callable[[Forward], Forward]:
    """Add a network to the zoo."""

    def add(forward: Forward) -> Forward:
        name = forward.__name__
        ZOO[name] = Entry(name, forward, parts, tuple(free.split()), frozen or {}, shape, symbols, silent)
        return forward

    return add


def conv(inputs: int, outputs: int, kernel: int | tuple[int, int] = 3, **options: Any) -> nn.Conv2d:
    same = kernel // 2 if isinstance(kernel, int) else 0
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": same, **options})


def weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


# Chains and additions


@network(free="a b", frozen={"head": "output"}, a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def plain_chain(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.b(F.relu(n.a(x)))))


@network(free="a b c", a=conv(3, 8), b=conv(8, 6), c=conv(6, 8), head=conv(8, 4))
def residual(n: Any, x: Tensor) -> Any:
    y = F.relu(n.a(x))
    return n.head(F.relu(y + n.c(F.relu(n.b(y)))))


@network(free="a b", a=conv(3, 8), b=conv(8, 8, stride=2), head=conv(16, 4))
def stages_added_both_ways(n: Any, x: Tensor) -> Any:
    high = n.a(x)
    low = n.b(F.relu(high))
    up = F.interpolate(low, scale_factor=2.0, mode="nearest")
    return n.head(torch.cat([F.relu(high + up), F.interpolate(F.relu(low + F.max_pool2d(high, 2)), scale_factor=2.0)], 1))


@network(free="a b", a=conv(3, 8), b=conv(3, 8), head=conv(8, 4))
def stack_then_sum(n: Any, x: Tensor) -> Any:
    return n.head(torch.stack([n.a(x), n.b(x)]).sum(0))


@network(free="a b", a=conv(3, 8), b=conv(3, 8), head=conv(8, 4))
def gated_product(n: Any, x: Tensor) -> Any:
    return n.head(n.a(x) * torch.tanh(n.b(x)))


@network(free="a b", a=conv(3, 8), b=conv(8, 8), head=conv(8, 4))
def in_place(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    y = torch.relu_(y)
    z = n.b(y)
    z += y
    z.add_(y).mul_(2)
    return n.head(F.relu(z, inplace=True))


@network(free="b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def written_channel(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    y[:, 0] = 0
    return n.head(n.b(y))


@network(a=conv(3, 8), head=conv(8, 4))
def written_positions(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    y[..., 0] = 0
    return n.head(y)


@network(free="a b", a=conv(3, 8), b=conv(3, 8), head=conv(8, 4))
def chosen_by_mask(n: Any, x: Tensor) -> Any:
    return n.head(torch.where(x[:, :1] > 0, n.a(x), n.b(x)))


@network(free="a", a=conv(3, 8), head=conv(8, 4))
def masked_fill(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(y.masked_fill(y < 0, 0.0))


@network(free="a b", silent=False, a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def zero_becomes_one_half(n: Any, x: Tensor) -> Any:
    return n.head(torch.cos(n.b(torch.sigmoid(n.a(x)))))


@network(free="a", a=conv(3, 8), drop=nn.Dropout2d(0.5), head=nn.Linear(8, 4))
def dropout(n: Any, x: Tensor) -> Any:
    return n.head(F.dropout(n.drop(n.a(x)).mean([2, 3]), 0.5, n.training))


# Convolutions of every kind


@network(free="a dw", a=conv(3, 8), dw=conv(8, 8, groups=8), head=conv(8, 4))
def depthwise(n: Any, x: Tensor) -> Any:
    return n.head(n.dw(F.relu(n.a(x))))


@network(free="a dw", a=conv(3, 8), dw=conv(8, 16, groups=8), head=conv(16, 4))
def depthwise_multiplier(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.dw(n.a(x))))


@network(free="a g", a=conv(3, 8), g=conv(8, 12, groups=2), head=conv(12, 4))
def grouped(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.g(F.relu(n.a(x)))))


@network(
    free="a g h i", a=conv(3, 8), g=conv(8, 16, groups=4), h=conv(16, 8, groups=2), i=conv(8, 8, groups=4), head=conv(8, 4)
)
def grouped_chain(n: Any, x: Tensor) -> Any:
    return n.head(n.i(F.relu(n.h(F.relu(n.g(n.a(x)))))))


@network(free="a", a=conv(3, 8), shared=conv(8, 8), head=conv(8, 4))
def shared_module(n: Any, x: Tensor) -> Any:
    return n.head(n.shared(F.relu(n.shared(n.a(x)))))


_TIED = weights(8, 8, 3, 3)


class _TiedConv(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(8, 8, 3, padding=1, bias=False)
        self.weight = _TIED


@network(free="a", a=conv(3, 8), b=_TiedConv(), c=_TiedConv(), head=conv(8, 4))
def tied_weights(n: Any, x: Tensor) -> Any:
    return n.head(n.c(F.relu(n.b(F.relu(n.a(x))))))


@network(free="a t", a=conv(3, 8), t=nn.ConvTranspose2d(8, 6, 2, stride=2), head=conv(6, 4))
def transposed(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.t(F.relu(n.a(x)))))


@network(free="a t", a=conv(3, 8), t=nn.ConvTranspose2d(8, 12, 3, groups=2), head=conv(12, 4))
def transposed_grouped(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.t(n.a(x))))


@network(free="a t", a=conv(3, 8), t=nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=8), head=conv(8, 4))
def transposed_depthwise(n: Any, x: Tensor) -> Any:
    return n.head(n.t(F.relu(n.a(x))))


@network(
    free="a b up c",
    a=conv(3, 8),
    b=conv(8, 12),
    up=nn.ConvTranspose2d(12, 6, 2, stride=2),
    c=conv(14, 8),
    head=conv(8, 4),
)
def unet(n: Any, x: Tensor) -> Any:
    skip = F.relu(n.a(x))
    deep = F.relu(n.b(F.max_pool2d(skip, 2)))
    return n.head(F.relu(n.c(torch.cat([skip, n.up(deep)], 1))))


@network(free="a b", shape=(3, 16), a=nn.Conv1d(3, 8, 3, stride=2), b=nn.Conv1d(8, 6, 3, dilation=2), head=nn.Linear(6, 4))
def one_dimensional(n: Any, x: Tensor) -> Any:
    return n.head(F.avg_pool1d(n.b(F.relu(n.a(x))), 3).flatten(1))


@network(free="a b t", shape=(2, 4, 8, 8), a=nn.Conv3d(2, 8, 3, padding=1), b=nn.Conv3d(8, 6, 1),
         t=nn.ConvTranspose3d(6, 5, 2), norm=nn.BatchNorm3d(8), head=nn.Linear(5, 4))  # fmt: skip
def three_dimensional(n: Any, x: Tensor) -> Any:
    return n.head(n.t(n.b(F.max_pool3d(F.relu(n.norm(n.a(x))), 2))).mean([2, 3, 4]))


@network(free="a b", a=conv(3, 8, stride=2, dilation=2, padding=2), b=conv(8, 6, (1, 3), padding=(0, 1)), head=conv(6, 4))
def dilated_and_strided(n: Any, x: Tensor) -> Any:
    return n.head(F.silu(n.b(F.gelu(n.a(x)))))


@network(free="a", a=conv(3, 8, padding_mode="reflect"), pad=nn.ReflectionPad2d(1), zero=nn.ZeroPad2d((1, 0, 2, 1)),
         head=conv(8, 4, padding_mode="circular"))  # fmt: skip
def padded_positions(n: Any, x: Tensor) -> Any:
    return n.head(F.pad(n.zero(n.pad(n.a(x))), (1, 1, 0, 0), mode="replicate"))


@network(free="a kernel", a=conv(3, 8), kernel=weights(6, 8, 3, 3), offset=weights(6), head=conv(6, 4))
def functional_conv(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(F.conv2d(n.a(x), n.kernel, n.offset, padding=1)))


@network(free="a matrix", a=conv(3, 8), matrix=weights(6, 8), offset=weights(6), head=nn.Linear(6, 4))
def functional_linear(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(F.linear(n.a(x).mean([2, 3]), n.matrix, n.offset)))


@network(a=conv(3, 8), made=nn.Linear(3, 8), head=conv(8, 4))
def computed_kernel(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    kernel = n.made(x.mean([0, 2, 3])).view(1, -1, 1, 1)
    return n.head(y) + F.conv2d(y, kernel)


@network(free="c", frozen={"b": "weight_norm"}, a=weight_norm(conv(3, 8)), b=conv(8, 8), n=weight_norm(conv(8, 6)),
         c=conv(6, 5), head=conv(5, 4))  # fmt: skip
def weight_normed(n: Any, x: Tensor) -> Any:
    return n.head(n.c(F.relu(n.n(n.b(F.relu(n.a(x)))))))


@network(free="b", a=conv(3, 8), b=conv(3, 5), s=spectral_norm(conv(8, 6)), head=conv(11, 4))
def spectral_normed(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(torch.cat([n.s(n.a(x)), n.b(x)], 1)))


@network(frozen={"a": ""}, a=conv(3, 8), b=conv(8, 4))
def channels_as_rows(n: Any, x: Tensor) -> Any:
    return n.b(n.a(x).transpose(1, 2))


@network(a=conv(3, 8), each=conv(1, 1), head=conv(8, 4))
def one_filter_for_each_channel(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    batch, channels, height, width = y.shape
    return n.head(n.each(y.reshape(batch * channels, 1, height, width)).reshape(batch, channels, height, width))


@network(a=conv(3, 4, 2), head=nn.Linear(16, 4))
def unfolded(n: Any, x: Tensor) -> Any:
    return n.head(F.unfold(n.a(x), 2).mean(2))


# Concatenation, splitting, moving


@network(free="a b c", a=conv(3, 8), b=conv(8, 4), norm=nn.BatchNorm2d(12), c=conv(12, 6), head=conv(18, 4))
def dense_block(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    y = torch.cat([y, n.b(F.relu(y))], 1)
    return n.head(torch.cat([y, n.c(F.relu(n.norm(y)))], 1))


@network(free="a b", a=conv(3, 5), b=conv(3, 7), head=conv(12, 4))
def concat_of_unequal_widths(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(torch.cat([n.a(x), n.b(x)], 1)))


@network(free="a", a=conv(3, 8), norm=nn.BatchNorm2d(16), head=conv(16, 4))
def concat_with_itself(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(n.norm(torch.cat([y, y], 1)))


@network(free="a", a=conv(3, 6), head=conv(9, 4))
def concat_with_the_input(n: Any, x: Tensor) -> Any:
    return n.head(torch.cat([x, n.a(x)], 1))


@network(free="a b c d", a=conv(3, 6), b=conv(3, 6), c=conv(3, 4), d=conv(3, 8), head=conv(12, 4))
def sum_of_concats(n: Any, x: Tensor) -> Any:
    return n.head(torch.cat([n.a(x), n.b(x)], 1) + torch.cat([n.c(x), n.d(x)], 1))


@network(free="a", a=conv(3, 8), head=nn.Linear(8 * 16, 4))
def flatten(n: Any, x: Tensor) -> Any:
    return n.head(torch.flatten(F.max_pool2d(F.relu(n.a(x)), 2), 1))


@network(free="a fc", a=conv(3, 8), fc=nn.Linear(8 * 64, 6), head=nn.Linear(6, 4))
def view_with_a_rest(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(F.relu(n.fc(y.view(y.size(0), -1))))


@network(free="fc", frozen={"a": "view|reshape|run|shape"}, shape=(3, 7, 7), a=conv(3, 16), fc=nn.Linear(16 * 49, 6),
         head=nn.Linear(6, 4))  # fmt: skip
def view_with_a_written_size(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.fc(n.a(x).view(-1, 16 * 7 * 7))))


@network(free="stem m e", stem=conv(3, 8), m=conv(4, 4), e=conv(12, 6), head=conv(6, 4))
def chunk_as_in_c2f(n: Any, x: Tensor) -> Any:
    parts = list(n.stem(x).chunk(2, 1))
    parts.append(n.m(parts[-1]))
    return n.head(n.e(torch.cat(parts, 1)))


@network(free="a b", a=conv(3, 8), b=conv(4, 6), head=conv(10, 4))
def split_by_shape(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    left, right = y.split(y.shape[1] // 2, 1)
    return n.head(torch.cat([n.b(left), right], 1))


@network(free="b", a=conv(3, 8), b=conv(3, 6), c=conv(5, 6), head=conv(12, 4))
def split_by_written_sizes(n: Any, x: Tensor) -> Any:
    left, right = n.a(x).split([3, 5], 1)
    return n.head(torch.cat([F.relu(n.b(left)), F.relu(n.c(right))], 1))


@network(free="b", a=conv(3, 16), b=conv(8, 6), c=conv(8, 6), head=conv(6, 4))
def slice_by_written_size(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(n.b(y[:, :8]) + n.c(y[:, 8:]))


@network(free="b", a=conv(3, 8), b=conv(4, 6), head=conv(6, 4))
def slice_by_shape(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(n.b(y[:, : y.shape[1] // 2]))


@network(free="b", a=conv(3, 8), b=conv(4, 6), head=conv(6, 4))
def every_second_channel(n: Any, x: Tensor) -> Any:
    return n.head(n.b(n.a(x)[:, ::2]))


@network(free="a g h", a=conv(3, 8, 1), g=conv(8, 8, groups=2), h=conv(8, 8, 1, groups=2), head=conv(8, 4))
def channel_shuffle(n: Any, x: Tensor) -> Any:
    y = n.g(n.a(x))
    batch, channels, height, width = y.shape
    y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)
    return n.head(n.h(F.relu(y)))


@network(free="a", a=conv(3, 8), shuffle=nn.ChannelShuffle(4), head=conv(8, 4))
def channel_shuffle_module(n: Any, x: Tensor) -> Any:
    return n.head(n.shuffle(n.a(x)))


@network(free="a", a=conv(3, 16), head=conv(4, 4))
def pixel_shuffle(n: Any, x: Tensor) -> Any:
    return n.head(F.pixel_shuffle(n.a(x), 2))


@network(free="a", a=conv(3, 4), head=conv(16, 4))
def pixel_unshuffle(n: Any, x: Tensor) -> Any:
    return n.head(F.pixel_unshuffle(n.a(x), 2))


@network(free="a", a=conv(3, 8), head=conv(16, 4))
def repeated_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.a(x).repeat(1, 2, 1, 1))


@network(a=conv(3, 8), head=conv(16, 4))
def interleaved_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.a(x).repeat_interleave(2, 1))


@network(free="b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def rolled_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.b(torch.roll(n.a(x), 1, 1)))


@network(free="b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def flipped_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.b(n.a(x).flip(1)))


@network(free="b", a=conv(3, 8), order=torch.tensor([3, 1, 0, 2, 7, 5]), b=conv(6, 6), head=conv(6, 4))
def chosen_by_buffer(n: Any, x: Tensor) -> Any:
    return n.head(n.b(n.a(x).index_select(1, n.order)))


@network(free="b d", a=conv(3, 8), b=conv(8, 6), c=conv(6, 8), stage=conv(8, 16, stride=2), d=conv(16, 5), e=conv(5, 16),
         head=conv(16, 4))  # fmt: skip
def zero_padded_shortcut(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    y = F.relu(y + n.c(F.relu(n.b(y))))
    y = F.relu(n.stage(y) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
    return n.head(F.relu(y + n.e(F.relu(n.d(y)))))


@network(a=conv(3, 8), b=conv(10, 6), head=conv(6, 4), free="b")
def padded_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.b(F.pad(n.a(x), (0, 0, 0, 0, 1, 1))))


@network(free="a b", a=conv(3, 8, stride=2), b=conv(3, 8), head=conv(8, 4))
def resized_to_another_map(n: Any, x: Tensor) -> Any:
    y = n.b(x)
    return n.head(y + F.interpolate(n.a(x), size=y.shape[-2:], mode="bilinear", align_corners=False))


@network(free="a b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4), pool=nn.MaxPool2d(2, return_indices=True),
         unpool=nn.MaxUnpool2d(2))  # fmt: skip
def pooled_and_unpooled(n: Any, x: Tensor) -> Any:
    y, places = n.pool(n.a(x))
    return n.head(n.b(n.unpool(F.relu(y), places)))


@network(free="a", a=conv(3, 8), pool=nn.AdaptiveMaxPool2d(2, return_indices=True), head=nn.Linear(8, 4))
def adaptive_pool_with_indices(n: Any, x: Tensor) -> Any:
    y, _places = n.pool(n.a(x))
    return n.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


# Per-channel arithmetic


@network(free="a", a=conv(3, 8), scale=weights(8, 1, 1), head=conv(8, 4))
def channel_scale(n: Any, x: Tensor) -> Any:
    return n.head(n.a(x) * n.scale)


@network(free="a", a=conv(3, 8), offset=torch.linspace(-1, 1, 8).view(1, 8, 1, 1), head=conv(8, 4))
def channel_buffer(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.a(x) + n.offset))


@network(free="hidden", a=conv(3, 8), hidden=nn.Linear(8, 12), out=nn.Linear(12, 8), gamma=weights(8), head=conv(8, 4))
def layer_scale_channels_last(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    z = n.gamma * n.out(F.gelu(n.hidden(y.permute(0, 2, 3, 1))))
    return n.head(y + z.permute(0, 3, 1, 2))


@network(frozen={"a": "ones|mul|constant|run|made"}, free="b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def constant_made_in_forward(n: Any, x: Tensor) -> Any:
    return n.head(n.b(n.a(x) * torch.ones(8).to(x.device).view(8, 1, 1)))


@network(free="b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def constant_of_the_right_shape(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(n.b(y * torch.full((y.shape[1], 1, 1), 2.0, device=y.device)))


@network(free="b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def numbered_channels(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(n.b(y * torch.arange(y.shape[1], device=y.device, dtype=y.dtype).view(-1, 1, 1)))


@network(frozen={"a": ""}, free="b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def scaled_by_the_width(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(n.b(y / math.sqrt(y.shape[1])))


@network(frozen={"a": ""}, free="b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def scaled_by_an_attribute(n: Any, x: Tensor) -> Any:
    return n.head(n.b(n.a(x) / n.a.out_channels))


@network(free="a r", a=conv(3, 8), r=conv(8, 2, 1), e=conv(2, 8, 1), head=conv(8, 4))
def squeeze_excite(n: Any, x: Tensor) -> Any:
    y = F.relu(n.a(x))
    gate = n.e(F.relu(n.r(F.adaptive_avg_pool2d(y, 1))))
    return n.head(y * torch.sigmoid(gate))


@network(free="a r", a=conv(3, 8), r=nn.Linear(8, 3), e=nn.Linear(3, 8), head=conv(8, 4))
def squeeze_excite_linear(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    batch, channels, _, _ = y.shape
    gate = torch.sigmoid(n.e(F.relu(n.r(y.mean([2, 3])))))
    return n.head(y * gate.view(batch, channels, 1, 1).expand_as(y))


@network(free="a", a=conv(3, 8), gate=conv(8, 1), head=conv(8, 4))
def spatial_gate(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(y * torch.sigmoid(n.gate(y)))


@network(frozen={"a": "max|mean"}, free="b", a=conv(3, 8), gate=conv(2, 1), b=conv(8, 6), head=conv(6, 4))
def spatial_gate_of_statistics(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    gate = n.gate(torch.cat([y.amax(1, keepdim=True), y.mean(1, keepdim=True)], 1))
    return n.head(n.b(y * torch.sigmoid(gate)))


@network(frozen={"a": "max"}, free="b", a=conv(3, 8), b=conv(3, 6), head=conv(6, 4))
def maximum_over_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.b(x)) + n.a(x).max(1, keepdim=True).values


@network(frozen={"a": "softmax"}, free="b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def softmax_over_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.b(torch.softmax(n.a(x), 1)))


@network(free="a", a=conv(3, 8), head=conv(8, 4))
def softmax_over_positions(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(y * torch.softmax(y.flatten(2), -1).view_as(y))


@network(frozen={"a": "mean"}, free="b", a=conv(3, 8), b=conv(3, 6), head=conv(6, 4))
def mean_over_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.b(x)) + n.a(x).mean(1, keepdim=True)


@network(free="b", a=conv(3, 8), b=conv(3, 6), head=conv(6, 4))
def sum_over_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.b(x)) + n.a(x).sum(1, keepdim=True)


@network(frozen={"a": "argmax"}, free="b", a=conv(3, 8), b=conv(3, 6), head=conv(6, 4))
def argmax_over_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.b(x)) * n.a(x).argmax(1, keepdim=True)


@network(free="b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def unit_length(n: Any, x: Tensor) -> Any:
    return n.head(n.b(F.normalize(n.a(x), dim=1)))


@network(frozen={"a": "cumsum"}, a=conv(3, 8), head=conv(8, 4))
def cumulated_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.a(x).cumsum(1))


@network(frozen={"a": "sort"}, a=conv(3, 8), head=conv(8, 4))
def sorted_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.a(x).sort(1).values)


@network(a=conv(3, 12), head=conv(6, 4))
def gated_linear_unit(n: Any, x: Tensor) -> Any:
    return n.head(F.glu(n.a(x), 1))


@network(a=conv(3, 12), head=conv(6, 4))
def maxout(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    batch, channels, height, width = y.shape
    return n.head(y.view(batch, 2, channels // 2, height, width).amax(1))


@network(free="b", a=conv(3, 8), mixing=weights(6, 8), b=conv(6, 5), head=conv(5, 4))
def einsum_over_channels(n: Any, x: Tensor) -> Any:
    return n.head(n.b(torch.einsum("nchw,dc->ndhw", n.a(x), n.mixing)))


@network(a=conv(3, 4), head=nn.Linear(16, 4))
def bilinear_pooling(n: Any, x: Tensor) -> Any:
    y = n.a(x).flatten(2)
    return n.head(torch.bmm(y, y.transpose(1, 2)).flatten(1))


@network(free="a b", a=conv(3, 8), act=nn.PReLU(8), b=conv(8, 6), shared=nn.PReLU(), head=conv(6, 4))
def prelu(n: Any, x: Tensor) -> Any:
    return n.head(n.shared(n.b(n.act(n.a(x)))))


# Normalisation


@network(free="a b", a=conv(3, 8, bias=True), first=nn.BatchNorm2d(8), b=conv(8, 6), second=nn.BatchNorm2d(6, affine=False),
         c=conv(6, 5), third=nn.BatchNorm2d(5, track_running_stats=False), head=conv(5, 4))  # fmt: skip
def batch_norms(n: Any, x: Tensor) -> Any:
    y = F.relu(n.second(n.b(F.relu(n.first(n.a(x))))))
    return n.head(n.third(n.c(y)))


@network(free="a", a=conv(3, 8, bias=False), norm=FrozenBatchNorm2d(8), head=conv(8, 4))
def frozen_batch_norm(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.norm(n.a(x))))


@network(free="a", a=conv(3, 16), norm=nn.GroupNorm(4, 16), head=conv(16, 4))
def group_norm(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.norm(n.a(x))))


@network(free="b", frozen={"a": "norm|at once"}, a=conv(3, 8), norm=nn.GroupNorm(1, 8), b=conv(8, 6), head=conv(6, 4))
def group_norm_of_one_group(n: Any, x: Tensor) -> Any:
    return n.head(n.b(n.norm(n.a(x))))


@network(free="a b", a=conv(3, 8), first=nn.InstanceNorm2d(8, affine=True), b=conv(8, 6),
         second=nn.InstanceNorm2d(6, affine=True, track_running_stats=True), head=conv(6, 4))  # fmt: skip
def instance_norm(n: Any, x: Tensor) -> Any:
    return n.head(n.second(n.b(F.relu(n.first(n.a(x))))))


@network(free="b", frozen={"a": "norm"}, shape=(6,), a=nn.Linear(6, 8), norm=nn.LayerNorm(8), b=nn.Linear(8, 6),
         head=nn.Linear(6, 4))  # fmt: skip
def layer_norm(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.b(n.norm(n.a(x)))))


@network(free="b", frozen={"a": "norm"}, a=conv(3, 8), norm=nn.LayerNorm([8, 8, 8]), b=conv(8, 6), head=conv(6, 4))
def layer_norm_over_maps(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.b(n.norm(n.a(x)))))


@network(free="a", silent=False, a=conv(3, 8), norm=nn.LayerNorm([8, 8]), head=conv(8, 4))
def layer_norm_over_positions(n: Any, x: Tensor) -> Any:
    return n.head(n.norm(n.a(x)))


@network(free="hidden", frozen={"dw": "norm"}, stem=conv(3, 8), dw=conv(8, 8, 7, groups=8), norm=nn.LayerNorm(8),
         hidden=nn.Linear(8, 16), out=nn.Linear(16, 8), gamma=weights(8, 1, 1), head=conv(8, 4))  # fmt: skip
def convnext_block(n: Any, x: Tensor) -> Any:
    y = n.stem(x)
    z = n.out(F.gelu(n.hidden(n.norm(n.dw(y).permute(0, 2, 3, 1)))))
    return n.head(y + n.gamma * z.permute(0, 3, 1, 2))


@network(free="b", frozen={"a": "norm"}, shape=(6,), a=nn.Linear(6, 8), norm=nn.RMSNorm(8), b=nn.Linear(8, 6),
         head=nn.Linear(6, 4))  # fmt: skip
def rms_norm(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.b(n.norm(n.a(x)))))


@network(free="b", a=conv(3, 8), norm=nn.LocalResponseNorm(3), b=conv(8, 6), head=conv(6, 4))
def local_response_norm(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.b(n.norm(n.a(x)))))


# Attention and sequences


@network(free="hidden", shape=(5, 8), qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8), hidden=nn.Linear(8, 12),
         out=nn.Linear(12, 8), head=nn.Linear(8, 4))  # fmt: skip
def attention_by_reshape(n: Any, x: Tensor) -> Any:
    batch, tokens, _ = x.shape
    q, k, v = n.qkv(x).reshape(batch, tokens, 3, 2, -1).permute(2, 0, 3, 1, 4).unbind(0)
    y = torch.softmax(q @ k.transpose(-2, -1) * 0.5, -1) @ v
    y = x + n.proj(y.transpose(1, 2).reshape(batch, tokens, -1))
    return n.head((y + n.out(F.gelu(n.hidden(y)))).mean(1))


@network(free="hidden", shape=(5, 8), qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8), hidden=nn.Linear(8, 12),
         out=nn.Linear(12, 8), head=nn.Linear(8, 4))  # fmt: skip
def attention_with_derived_scale(n: Any, x: Tensor) -> Any:
    batch, tokens, _ = x.shape
    q, k, v = n.qkv(x).reshape(batch, tokens, 3, 2, -1).permute(2, 0, 3, 1, 4)
    y = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, -1) @ v
    y = x + n.proj(y.transpose(1, 2).flatten(2))
    return n.head((y + n.out(F.gelu(n.hidden(y)))).mean(1))


@network(free="hidden", shape=(5, 8), q=nn.Linear(8, 8), kv=nn.Linear(8, 16), proj=nn.Linear(8, 8), hidden=nn.Linear(8, 12),
         out=nn.Linear(12, 8), head=nn.Linear(8, 4))  # fmt: skip
def fused_attention(n: Any, x: Tensor) -> Any:
    q = n.q(x).unflatten(-1, (2, -1)).transpose(1, 2)
    k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in n.kv(x).chunk(2, -1))
    y = x + n.proj(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))
    return n.head((y + n.out(F.gelu(n.hidden(y)))).mean(1))


@network(free="hidden", shape=(5, 8), attention=nn.MultiheadAttention(8, 2, batch_first=True), norm=nn.LayerNorm(8),
         hidden=nn.Linear(8, 12), out=nn.Linear(12, 8), head=nn.Linear(8, 4))  # fmt: skip
def multihead_attention(n: Any, x: Tensor) -> Any:
    y = n.norm(x)
    y = x + n.attention(y, y, y, need_weights=False)[0]
    return n.head((y + n.out(F.gelu(n.hidden(y)))).mean(1))


@network(
    free="layer.linear1", shape=(5, 8), layer=nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), head=nn.Linear(8, 4)
)
def transformer_layer(n: Any, x: Tensor) -> Any:
    return n.head(n.layer(x).mean(1))


@network(free="hidden", patches=conv(3, 8, 4, stride=4, padding=0), places=weights(1, 5, 8), token=weights(1, 1, 8),
         norm=nn.LayerNorm(8), hidden=nn.Linear(8, 12), out=nn.Linear(12, 8), head=nn.Linear(8, 4))  # fmt: skip
def class_token_and_positions(n: Any, x: Tensor) -> Any:
    y = n.patches(x).flatten(2).transpose(1, 2)
    y = torch.cat([n.token.expand(x.shape[0], -1, -1), y], 1) + n.places
    y = y + n.out(F.gelu(n.hidden(n.norm(y))))
    return n.head(y[:, 0] + y[:, 1:].mean(1))


@network(free="patches hidden", patches=conv(3, 8, 4, stride=4, padding=0), places=weights(1, 4, 8), hidden=nn.Linear(8, 12),
         head=nn.Linear(12, 4))  # fmt: skip
def position_embedding(n: Any, x: Tensor) -> Any:
    y = n.patches(x).flatten(2).transpose(1, 2) + n.places
    return n.head(F.gelu(n.hidden(y)).mean(1))


@network(free="tokens hidden", shape=(5, 8), tokens=nn.Linear(5, 7), back=nn.Linear(7, 5), hidden=nn.Linear(8, 12),
         out=nn.Linear(12, 8), head=nn.Linear(8, 4))  # fmt: skip
def mixer(n: Any, x: Tensor) -> Any:
    y = x + n.back(F.gelu(n.tokens(x.transpose(1, 2)))).transpose(1, 2)
    return n.head((y + n.out(F.gelu(n.hidden(y)))).mean(1))


@network(a=conv(3, 6), memory=nn.LSTM(6, 5, batch_first=True), head=nn.Linear(5, 4))
def lstm_head(n: Any, x: Tensor) -> Any:
    y, _state = n.memory(n.a(x).flatten(2).transpose(1, 2))
    return n.head(y[:, -1])


@network(a=conv(3, 6), memory=nn.GRU(6, 5, bidirectional=True), head=nn.Linear(10, 4))
def gru_head(n: Any, x: Tensor) -> Any:
    y, _state = n.memory(n.a(x).flatten(2).permute(2, 0, 1))
    return n.head(y.mean(0))


@network(free="a", shape=(12,), symbols=20, table=nn.Embedding(20, 8), a=nn.Conv1d(8, 6, 3), head=nn.Linear(6, 4))
def embedding(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.a(n.table(x).transpose(1, 2))).mean(2))


@network(free="a", shape=(6,), symbols=20, table=nn.EmbeddingBag(20, 8), a=nn.Linear(8, 6), head=nn.Linear(6, 4))
def embedding_bag(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.a(n.table(x))))


# Control flow and results


@network(free="b", frozen={"a": "sum|item|bool|value|branch"}, a=conv(3, 8), b=conv(3, 6), head=conv(6, 4), left=conv(8, 4))
def branch_on_values(n: Any, x: Tensor) -> Any:
    y, z = n.a(x), n.head(F.relu(n.b(x)))
    return z + n.left(y) if y.sum() > 0 else z - n.left(y)


@network(frozen={"a": "max|item|value"}, a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def number_taken_out(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(n.b(y / (y.abs().max().item() + 1.0)))


@network(frozen={"a": ""}, free="b", a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def branch_on_width(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(n.b(y if y.shape[1] == 8 else -y))


@network(free="a", frozen={"left": "output", "right": "output"}, a=conv(3, 8), left=conv(8, 4), right=conv(8, 2))
def dictionary_out(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return {"left": n.left(y), "right": n.right(y)}


@network(free="a", frozen={"left": "output", "right": "output"}, a=conv(3, 8), left=conv(8, 4), right=conv(8, 2))
def nested_out(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.left(y), [{"deep": (n.right(y),)}, None, 3]


@dataclass
class Answer:
    """A result with named fields."""

    left: Tensor
    right: Tensor | None = None


@network(free="a", frozen={"left": "output", "right": "output"}, a=conv(3, 8), left=conv(8, 4), right=conv(8, 2))
def dataclass_out(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return Answer(n.left(y), n.right(y))


@network(free="b", frozen={"a": "output"}, a=conv(3, 8), b=conv(8, 6), head=conv(6, 4))
def features_out(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(n.b(y)), y


@network(free="a", a=conv(3, 8), head=conv(8, 4))
def input_out(n: Any, x: Tensor) -> Any:
    return n.head(n.a(x)), x


@network(a=conv(3, 8))
def nothing_done(n: Any, x: Tensor) -> Any:
    return x


@network(free="a", a=conv(3, 8), unused=conv(8, 8), idle=nn.BatchNorm2d(8), extra=weights(5), head=conv(8, 4))
def unused_modules(n: Any, x: Tensor) -> Any:
    return n.head(n.a(x))


@network(free="body.0 body.2.0", body=nn.Sequential(conv(3, 8), nn.ReLU(), nn.ModuleList([conv(8, 6)])), head=conv(6, 4))
def nested_containers(n: Any, x: Tensor) -> Any:
    y = n.body[1](n.body[0](x))
    for layer in n.body[2]:
        y = layer(y)
    return n.head(y)


# Parameters on their own


@network(free="a", a=conv(3, 8), gamma=nn.Parameter(torch.tensor(0.5)), head=conv(8, 4))
def scalar_gate(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(y + n.gamma * F.relu(y))


@network(free="a", shape=(5, 6), a=nn.Linear(6, 8), w=nn.Parameter(torch.randn(8, 7)), head=nn.Linear(7, 4))
def bare_matrix(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(F.relu(n.a(x)) @ n.w))


@network(free="a", shape=(5, 6), a=nn.Linear(6, 8), head=nn.Linear(6, 4))
def tied_transposed(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(F.linear(F.relu(n.a(x)), n.a.weight.t())))


@network(shape=(5, 6), w=nn.Parameter(torch.randn(12, 6)), head=nn.Linear(8, 4))
def first_rows_of_a_matrix(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(F.linear(x, n.w[:8])))


@network(shape=(5, 6), w=nn.Parameter(torch.randn(3, 8, 6)), head=nn.Linear(8, 4))
def one_expert_of_several(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(F.linear(x, n.w[0]) + F.linear(x, n.w[2])))


@network(free="a", shape=(5, 6), a=nn.Linear(6, 8), token=nn.Parameter(torch.randn(8)), head=nn.Linear(8, 4))
def repeated_token(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    return n.head(torch.cat([n.token.unsqueeze(0).unsqueeze(0).repeat(len(x), 1, 1), y], 1))


@network(free="a", shape=(5, 6), a=nn.Linear(6, 8), table=nn.Parameter(torch.randn(9, 8)), head=nn.Linear(8, 4))
def looked_up_positions(n: Any, x: Tensor) -> Any:
    return n.head(n.a(x) + n.table[torch.arange(x.shape[1], device=x.device)])


@network(free="a", a=conv(3, 8), scale=nn.Parameter(torch.randn(1, 8, 1, 1)), head=conv(8, 4))
def scaled_map(n: Any, x: Tensor) -> Any:
    return n.head(F.relu(n.a(x)) + n.scale * torch.ones_like(x[:, :1]))


@network(shape=(5, 6), a=nn.Linear(6, 8), w=nn.Parameter(torch.randn(4, 8)))
def cosine_head(n: Any, x: Tensor) -> Any:
    return F.linear(F.normalize(n.a(x), dim=-1), F.normalize(n.w, dim=-1))


# Tensors made to fit, and written into


@network(free="a b", a=conv(3, 8), b=conv(3, 8), head=conv(8, 4))
def larger_of_two(n: Any, x: Tensor) -> Any:
    return n.head(torch.max(n.a(x), n.b(x)))


@network(free="a", a=conv(3, 8), head=conv(8, 4))
def accumulated(n: Any, x: Tensor) -> Any:
    y = n.a(x)
    total = y.new_zeros(y.shape)
    for _ in range(2):
        total = total + y
    return n.head(total)


@network(free="a b", a=conv(3, 8), b=conv(3, 8), head=conv(8, 4))
def assigned(n: Any, x: Tensor) -> Any:
    y = torch.zeros_like(n.a(x)).copy_(n.b(x))
    return n.head(y + n.a(x))


@network(free="a", shape=(6, 6), a=nn.Linear(6, 5), cell=nn.GRUCell(5, 7), head=nn.Linear(7, 4))
def recurrent_cell(n: Any, x: Tensor) -> Any:
    y, state = n.a(x), None
    for step in range(x.shape[1]):
        state = n.cell(y[:, step], state)
    return n.head(state)
