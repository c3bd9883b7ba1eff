"""One update of the agent against the same arithmetic in plain torch: targets, both steps of Adam, slow copies, memory."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from automl_prune.strategies._ddpg import Agent, AgentSettings, Network

FEATURES = 5
SETTINGS = AgentSettings(hidden=12, actor_lr=3e-3, critic_lr=1e-2, batch=16, tau=0.05, gamma=0.9, baseline=0.5, replay=64)


class Reference(nn.Module):
    """Two hidden layers; each input has a first layer of its own, and the actor's output is squashed."""

    def __init__(self, network: Network, weights: Tensor, *, squash: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(into, out) for out, into in network.shapes)
        self.squash = squash
        parts = iter(weights.split_with_sizes(network.sizes))
        with torch.no_grad():
            for layer in self.layers:
                assert isinstance(layer, nn.Linear)
                layer.weight.copy_(next(parts).view_as(layer.weight))
                layer.bias.copy_(next(parts))

    def forward(self, *inputs: Tensor) -> Tensor:
        first, second, third, *others = self.layers
        early = first(inputs[0]) + sum(layer(given) for layer, given in zip(others, inputs[1:], strict=True))
        out: Tensor = third(torch.relu(second(torch.relu(early))))
        return torch.sigmoid(out) if self.squash else out

    def flat(self) -> Tensor:
        return torch.cat([p.detach().flatten() for layer in self.layers for p in layer.parameters()])


def filled(settings: AgentSettings = SETTINGS, transitions: int = 40) -> Agent:
    """An agent that remembers episodes of four steps, and whose slow copies are others than its networks."""
    agent, rng = Agent(FEATURES, settings, seed=3), np.random.default_rng(0)
    for number in range(transitions):
        state, following = rng.random((2, FEATURES), dtype=np.float32)
        agent.remember(state, float(rng.random()), float(rng.normal()), following, last=number % 4 == 3)
    for network in (agent.actor, agent.critic):
        network.target.add_(torch.from_numpy(rng.normal(0, 0.1, len(network.target)).astype(np.float32)))
    return agent


def drawn(agent: Agent) -> list[Tensor]:
    """State, following, action, reward, last of the batch that the next update learns from."""
    known = min(agent.remembered, len(agent.memory))
    rng = np.random.default_rng([agent.seed, agent.updates, 1])
    rows = agent.memory[rng.choice(known, min(agent.settings.batch, known), replace=False)]
    return list(torch.from_numpy(rows.copy()).split_with_sizes([FEATURES, FEATURES, 1, 1, 1], dim=1))


@pytest.mark.parametrize("updates", [1, 3])
def test_an_update_is_that_of_the_paper(updates: int) -> None:
    """Critic towards r − b + γ(1 − last)Q'(s', μ'(s')), actor up Q(s, μ(s)), slow copies by τ (AMC section 3.4)."""
    agent = filled()
    actor, critic = (Reference(n, n.weights, squash=n is agent.actor) for n in (agent.actor, agent.critic))
    slow_actor, slow_critic = (Reference(n, n.target, squash=n is agent.actor) for n in (agent.actor, agent.critic))
    adam = torch.optim.Adam(actor.parameters(), SETTINGS.actor_lr), torch.optim.Adam(critic.parameters(), SETTINGS.critic_lr)
    baseline = None
    for _ in range(updates):
        state, following, action, reward, last = drawn(agent)
        assert 0 < last.mean() < 1, "ends and other steps"
        mean = float(reward.mean())
        baseline = mean if baseline is None else baseline + SETTINGS.baseline * (mean - baseline)
        with torch.no_grad():
            ahead = slow_critic(following, slow_actor(following))
            target = reward - baseline + SETTINGS.gamma * (1 - last) * ahead
        for optimiser, loss in (
            (adam[1], lambda: nn.functional.mse_loss(critic(state, action), target)),  # noqa: B023 - called at once
            (adam[0], lambda: -critic(state, actor(state)).mean()),  # noqa: B023 - called at once
        ):
            actor.zero_grad()
            critic.zero_grad()
            loss().backward()
            optimiser.step()
        with torch.no_grad():
            for slow, quick in ((slow_actor, actor), (slow_critic, critic)):
                for p, q in zip(slow.parameters(), quick.parameters(), strict=True):
                    p.lerp_(q, SETTINGS.tau)
        agent.update()
    assert agent.baseline == pytest.approx(baseline)
    pairs = [
        (agent.critic.weights, critic), (agent.actor.weights, actor),
        (agent.critic.target, slow_critic), (agent.actor.target, slow_actor),
    ]  # fmt: skip
    for ours, reference in pairs:
        torch.testing.assert_close(ours, reference.flat(), rtol=1e-4, atol=1e-6)


def test_slow_copies_move_and_stay_behind() -> None:
    agent = filled()
    before = copy.deepcopy([agent.actor.target, agent.critic.target])
    agent.update()
    for old, network in zip(before, (agent.actor, agent.critic), strict=True):
        torch.testing.assert_close(network.target - old, SETTINGS.tau * (network.weights - old), rtol=1e-3, atol=1e-6)
        assert not torch.equal(network.target, old)


def test_the_oldest_transitions_make_room() -> None:
    """2,000 transitions are kept, as released."""
    settings = AgentSettings()
    assert settings.replay == 2000
    agent, state = Agent(1, settings, seed=0), np.zeros(1, dtype=np.float32)
    for number in range(2300):
        agent.remember(state, 0.5, float(number), state, last=True)
    assert sorted(agent.memory[:, 3].tolist()) == list(range(300, 2300))
