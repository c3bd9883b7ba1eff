"""Deep deterministic policy gradients (Lillicrap et al. 2016, arXiv 1509.02971) as AMC uses them.

An actor maps states to actions in (0, 1), a critic maps both to what reward is to be expected. Each network lies in one flat
vector, so that Adam, soft updates and saving are each a few operations. On the CPU and with one thread the same transitions
in the same order make the same networks, to the bit.
"""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

FloatArray = npt.NDArray[np.float32]
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Adam's, as torch and the released code have them."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class AgentSettings:
    """What is published of the agent (AMC section 3.4 and the released ``amc_search.py``).

    Attributes:
        hidden: Units of each of the two hidden layers.
        actor_lr, critic_lr: Adam's rates.
        batch: Transitions of an update, without replacement.
        tau: Part of the new networks in the targets after an update.
        gamma: Discount.
        baseline: Part of a batch's mean reward in the moving baseline; 0 leaves rewards as they are.
        replay: Transitions kept.
    """

    hidden: int = 300
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    batch: int = 64
    tau: float = 0.01
    gamma: float = 1.0
    baseline: float = 0.5
    replay: int = 2000


class Agent:
    """Actor, critic, their slow copies and the memory of transitions.

    Args:
        features: Size of a state.
        settings: The numbers.
        seed: Of the first weights and of the batches that are drawn.
    """

    def __init__(self, features: int, settings: AgentSettings, *, seed: int) -> None:
        self.settings, self.features, self.seed = settings, features, seed
        rng = np.random.default_rng([seed, 0, 2])
        hidden = settings.hidden
        self.actor = Network([(hidden, features), (hidden, hidden), (1, hidden)], settings.actor_lr, rng)
        self.critic = Network([(hidden, features), (hidden, hidden), (1, hidden), (hidden, 1)], settings.critic_lr, rng)
        self.actor_target, self.critic_target = self.actor.weights.clone(), self.critic.weights.clone()
        self.memory: FloatArray = np.zeros((settings.replay, 2 * features + 3), dtype=np.float32)
        self.remembered = 0
        self.updates = 0
        self.baseline: float | None = None

    def act(self, state: FloatArray) -> float:
        """What the policy does in a state ``[features]``."""
        with torch.no_grad(), one_thread():
            return float(self._policy(self.actor.weights, torch.from_numpy(state)[None]))

    def remember(self, state: FloatArray, action: float, reward: float, following: FloatArray, *, last: bool) -> None:
        """Keep a transition; the oldest makes room."""
        row = self.memory[self.remembered % len(self.memory)]
        row[:] = np.concatenate([state, following, np.array([action, reward, last], dtype=np.float32)])
        self.remembered += 1

    def update(self) -> None:
        """One step of critic and actor on a batch, and of their targets towards them."""
        known = min(self.remembered, len(self.memory))
        rng = np.random.default_rng([self.seed, self.updates, 1])
        chosen = self.memory[rng.choice(known, min(self.settings.batch, known), replace=False)]
        self.updates += 1
        with torch.enable_grad(), one_thread():
            sizes = [self.features, self.features, 1, 1, 1]
            state, following, action, reward, last = torch.from_numpy(chosen).split_with_sizes(sizes, dim=1)
            self._learn(state, action, self._centred(reward), following, last)

    def _centred(self, reward: Tensor) -> Tensor:
        """Rewards less the moving baseline, which moves first."""
        if not self.settings.baseline:
            return reward
        mean = float(reward.mean())
        self.baseline = mean if self.baseline is None else self.baseline + self.settings.baseline * (mean - self.baseline)
        return reward - self.baseline

    def _learn(self, state: Tensor, action: Tensor, reward: Tensor, following: Tensor, last: Tensor) -> None:
        with torch.no_grad():
            ahead = self._value(self.critic_target, following, self._policy(self.actor_target, following))
            target = reward + self.settings.gamma * (1 - last) * ahead
        self.critic.descend(lambda weights: F.mse_loss(self._value(weights, state, action), target))
        critic = self.critic.weights
        self.actor.descend(lambda weights: -self._value(critic, state, self._policy(weights, state)).mean())
        self.actor_target.lerp_(self.actor.weights, self.settings.tau)
        self.critic_target.lerp_(critic, self.settings.tau)

    def _policy(self, weights: Tensor, state: Tensor) -> Tensor:
        """Actions ``[n, 1]`` in states ``[n, features]``."""
        first, second, third = self.actor.layers(weights)
        return torch.sigmoid(F.linear(F.relu(F.linear(F.relu(F.linear(state, *first)), *second)), *third))

    def _value(self, weights: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """Expected reward ``[n, 1]``; state and action have weights of their own in the first layer."""
        first, second, third, acted = self.critic.layers(weights)
        return F.linear(F.relu(F.linear(F.relu(F.linear(state, *first) + F.linear(action, *acted)), *second)), *third)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON data; numbers in arrays keep every bit."""
        known = self.memory[: min(self.remembered, len(self.memory))]
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "actor_target": packed(self.actor_target.numpy()),
            "critic_target": packed(self.critic_target.numpy()),
            "memory": packed(known),
            "remembered": self.remembered,
            "updates": self.updates,
            "baseline": self.baseline,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.actor_target = torch.from_numpy(unpacked(state["actor_target"]))
        self.critic_target = torch.from_numpy(unpacked(state["critic_target"]))
        known = unpacked(state["memory"]).reshape(-1, self.memory.shape[1])
        self.memory[: len(known)] = known
        self.remembered, self.updates, self.baseline = state["remembered"], state["updates"], state["baseline"]


class Network:
    """Fully connected layers in one vector, and Adam's (Kingma and Ba 2015) memory of it.

    Args:
        shapes: Of the weights, ``(out, in)``; each has a bias.
        lr: Adam's rate.
        rng: Draws the first weights, uniform within 1/sqrt(in), as torch does.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], lr: float, rng: np.random.Generator) -> None:
        self.shapes, self.lr, self.steps = tuple(shapes), lr, 0
        drawn = [rng.uniform(-1, 1, out * into + out) / math.sqrt(into) for out, into in shapes]
        self.sizes = [size for out, into in shapes for size in (out * into, out)]
        self.weights = torch.from_numpy(np.concatenate(drawn).astype(np.float32))
        self.mean, self.square, self._scale = (torch.zeros_like(self.weights) for _ in range(3))

    def layers(self, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weight ``[out, in]`` and bias ``[out]`` of each layer, as parts of a vector like :attr:`weights`."""
        parts = weights.split_with_sizes(self.sizes)
        return [(parts[2 * i].view(shape), parts[2 * i + 1]) for i, shape in enumerate(self.shapes)]

    def descend(self, loss: Any) -> None:
        """One step of Adam on a loss, a function of :attr:`weights`."""
        leaf = self.weights.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        with torch.no_grad():
            self.steps += 1
            self.mean.lerp_(gradient, 1 - BETAS[0])
            self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            torch.sqrt(self.square, out=self._scale).div_(math.sqrt(1 - BETAS[1] ** self.steps)).add_(EPSILON)
            self.weights.addcdiv_(self.mean, self._scale, value=-self.lr / (1 - BETAS[0] ** self.steps))

    def state_dict(self) -> dict[str, Any]:
        """Weights and Adam's memory, as JSON data."""
        arrays = {"weights": self.weights, "mean": self.mean, "square": self.square}
        return {name: packed(value.numpy()) for name, value in arrays.items()} | {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.weights, self.mean, self.square = (
            torch.from_numpy(unpacked(state[name])) for name in ("weights", "mean", "square")
        )
        self.steps = state["steps"]


def truncated_normal(rng: np.random.Generator, mean: float, sigma: float) -> float:
    """A draw from a normal distribution restricted to [0, 1], by its inverse; ``mean`` must lie in there."""
    if sigma <= 0:
        return mean
    low, high = (_NORMAL.cdf((end - mean) / sigma) for end in (0.0, 1.0))
    share = low + (high - low) * (1 - rng.random())
    drawn = mean + sigma * _NORMAL.inv_cdf(min(max(share, 1e-300), 1 - 1e-16))
    return min(max(drawn, 0.0), 1.0)


def packed(array: FloatArray) -> str:
    """The bytes of an array (little-endian float32) as text."""
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode("ascii")


def unpacked(text: str) -> FloatArray:
    """What :func:`packed` was given, flat."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch: faster for networks this small, and the same sums in the same order everywhere."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
