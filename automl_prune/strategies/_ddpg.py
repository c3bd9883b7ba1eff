"""Deep deterministic policy gradients (Lillicrap et al. 2016, arXiv 1509.02971) as AMC uses them.

An actor maps states to actions in (0, 1), a critic maps both to what reward is to be expected. Each network lies in one flat
vector, so that Adam, soft updates and saving are each a few operations, and gradients are written out, as autograd takes
longer than the arithmetic of networks this small. On the CPU and with one thread the same transitions in the same order make
the same networks, to the bit.
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

FloatArray = npt.NDArray[np.float32]
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Adam's, as torch and the released code have them."""
DENORMAL = 1e-40
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
        self.actor = Network([features], settings.hidden, settings.actor_lr, rng)
        self.critic = Network([features, 1], settings.hidden, settings.critic_lr, rng)
        self.memory: FloatArray = np.zeros((settings.replay, 2 * features + 3), dtype=np.float32)
        self.remembered = 0
        self.updates = 0
        self.baseline: float | None = None

    def act(self, state: FloatArray) -> float:
        """What the policy does in a state ``[features]``."""
        with arithmetic():
            return float(self._policy(self.actor.weights, torch.from_numpy(state)[None])[-1])

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
        with arithmetic():
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
        actor, critic = self.actor, self.critic
        ahead = critic.run(critic.target, following, self._policy(actor.target, following)[-1])[-1]
        target = reward + self.settings.gamma * (1 - last) * ahead

        first, second, value = critic.run(critic.weights, state, action)
        critic.backward([state, action], first, second, (value - target) * (2 / len(state)))  # of the mean squared error
        critic.step()

        decided_first, decided_second, decided = self._policy(actor.weights, state)
        first, second, value = critic.run(critic.weights, state, decided)
        uphill = critic.backward_to_action(first, second, torch.full_like(value, -1 / len(state)))  # of the mean value
        actor.backward([state], decided_first, decided_second, uphill * decided * (1 - decided))
        actor.step()
        for network in (actor, critic):
            network.target.lerp_(network.weights, self.settings.tau)

    def _policy(self, weights: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both hidden layers of the actor and actions ``[n, 1]`` in states ``[n, features]``."""
        first, second, out = self.actor.run(weights, state)
        return first, second, out.sigmoid_()

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON data; numbers in arrays keep every bit."""
        known = self.memory[: min(self.remembered, len(self.memory))]
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "actor_target": packed(self.actor.target.numpy()),
            "critic_target": packed(self.critic.target.numpy()),
            "memory": packed(known),
            "remembered": self.remembered,
            "updates": self.updates,
            "baseline": self.baseline,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.actor.target.copy_(torch.from_numpy(unpacked(state["actor_target"])))
        self.critic.target.copy_(torch.from_numpy(unpacked(state["critic_target"])))
        known = unpacked(state["memory"]).reshape(-1, self.memory.shape[1])
        self.memory[: len(known)] = known
        self.remembered, self.updates, self.baseline = state["remembered"], state["updates"], state["baseline"]


class Network:
    """Two hidden layers of rectified units and one output in a vector, a slow copy of it, and Adam (Kingma and Ba 2015).

    Args:
        inputs: Sizes of what it takes in; each has weights of its own in the first layer.
        hidden: Units of each hidden layer.
        lr: Adam's rate.
        rng: Draws the first weights, uniform within 1/sqrt(in), as torch does.

    Attributes:
        weights, target: The network and its slow copy.
        gradient: What :meth:`step` descends.
    """

    def __init__(self, inputs: Sequence[int], hidden: int, lr: float, rng: np.random.Generator) -> None:
        self.lr, self.steps = lr, 0
        self.shapes = [(hidden, inputs[0]), (hidden, hidden), (1, hidden), *((hidden, size) for size in inputs[1:])]
        drawn = [rng.uniform(-1, 1, out * into + out) / math.sqrt(into) for out, into in self.shapes]
        self.sizes = [size for out, into in self.shapes for size in (out * into, out)]
        self.weights = torch.from_numpy(np.concatenate(drawn).astype(np.float32))
        self.target = self.weights.clone()
        self.gradient, self.mean, self.square, self._scale = (torch.zeros_like(self.weights) for _ in range(4))
        self._layers = {id(vector): self._split(vector) for vector in (self.weights, self.target, self.gradient)}

    def _split(self, vector: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weight ``[out, in]`` and bias ``[out]`` of each layer, as parts of a vector."""
        parts = vector.split_with_sizes(self.sizes)
        return [(parts[2 * i].view(shape), parts[2 * i + 1]) for i, shape in enumerate(self.shapes)]

    def run(self, weights: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both hidden layers ``[n, hidden]`` and the output ``[n, 1]``; ``weights`` are its own or the slow ones."""
        (weight, bias), (second, second_bias), (third, third_bias), *others = self._layers[id(weights)]
        early = torch.addmm(bias, inputs[0], weight.t())
        for (other, other_bias), given in zip(others, inputs[1:], strict=True):
            early.addmm_(given, other.t()).add_(other_bias)
        late = torch.addmm(second_bias, early.relu_(), second.t()).relu_()
        return early, late, torch.addmm(third_bias, late, third.t())

    def backward(self, inputs: Sequence[Tensor], early: Tensor, late: Tensor, slope: Tensor) -> None:
        """Fill :attr:`gradient` from the loss's slope in the output ``[n, 1]``."""
        layers = self._layers[id(self.gradient)]
        late_slope, early_slope = self._slopes(early, late, slope)
        places = [layers[1], layers[2], layers[0], *layers[3:]]
        ends = [late_slope, slope, *([early_slope] * len(inputs))]
        for (weight, bias), end, start in zip(places, ends, [early, late, *inputs], strict=True):
            torch.mm(end.t(), start, out=weight)
            torch.sum(end, 0, out=bias)

    def backward_to_action(self, early: Tensor, late: Tensor, slope: Tensor) -> Tensor:
        """The loss's slope in the last input, ``[n, size]``, from that in the output ``[n, 1]``."""
        return self._slopes(early, late, slope)[1] @ self._layers[id(self.weights)][-1][0]

    def _slopes(self, early: Tensor, late: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The slopes in the second and the first hidden layer before they are rectified."""
        _, (second, _), (third, _), *_ = self._layers[id(self.weights)]
        late_slope = (slope * third).mul_(late.sign())
        return late_slope, (late_slope @ second).mul_(early.sign())

    def step(self) -> None:
        """One step of Adam down the gradient."""
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in BETAS)
        self.mean.lerp_(self.gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(self.gradient, self.gradient, value=1 - BETAS[1])
        torch.sqrt(self.square, out=self._scale).add_(EPSILON * math.sqrt(second))
        self.weights.addcdiv_(self.mean, self._scale, value=-self.lr * math.sqrt(second) / first)

    def state_dict(self) -> dict[str, Any]:
        """Weights and Adam's memory, as JSON data."""
        arrays = {"weights": self.weights, "mean": self.mean, "square": self.square}
        return {name: packed(value.numpy()) for name, value in arrays.items()} | {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        for name in ("weights", "mean", "square"):
            getattr(self, name).copy_(torch.from_numpy(unpacked(state[name])))
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
def arithmetic() -> Iterator[None]:
    """One thread for torch, no autograd, and tiny numbers are zero.

    Faster for networks this small, and the same sums in the same order everywhere. Adam's memory of units that are at rest
    decays to denormal numbers, which are tens of times slower than others.
    """
    threads, tiny = torch.get_num_threads(), bool(torch.tensor(DENORMAL) / 2)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_flush_denormal(not tiny)
        torch.set_num_threads(threads)
