"""A recurrent policy: CartPole with its velocities hidden, by PPO.

    python examples/cartpole_recurrent.py              # memoryless, then recurrent
    python examples/cartpole_recurrent.py --quick      # a few updates of each

One angle does not say which way the pole is falling, so a policy needs memory. One
call of the layer runs the whole rollout of every environment. `resets=` resets the
state where an episode begins, so there is no loop over episodes and no padding. PPO is
Schulman et al. 2017. Hidden velocities are a common test of memory, as in Ni, Eysenbach
& Salakhutdinov 2022. Needs gymnasium: pip install 'cellwright[examples]'.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

import cellwright as cw

SEEN = [0, 2]  # of position, velocity, angle, angular velocity
SCALE = torch.tensor([1.0, 5.0])


@dataclass
class Settings:
    updates: int = 80
    environments: int = 16
    steps: int = 128  # of a rollout
    hidden: int = 64
    epochs: int = 4
    groups: int = 4  # minibatches are groups of environments: whole sequences
    discount: float = 0.99
    smoothing: float = 0.95  # of generalised advantage estimation
    clip: float = 0.2
    entropy: float = 0.005
    rate: float = 2e-3
    reward: float = 0.05  # of a step, so that values are of the order of 1


class Policy(nn.Module):
    """Logits of the two actions and the value, of every step of every row."""

    def __init__(self, hidden: int, recurrent: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(len(SEEN), hidden), nn.Tanh())
        self.memory = cw.GRU(hidden, hidden) if recurrent else None
        self.last = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh())
        self.heads = nn.Linear(hidden, 3)

    def forward(
        self, seen: Tensor, state: Tensor | None, starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """seen (T, B, 2), starts (T, B) -> logits (T, B, 2), values (T, B), state."""
        features = self.first(seen * SCALE)
        if self.memory is not None:
            features, state = self.memory(features, state, resets=starts)
        heads = self.heads(self.last(features))
        return heads[..., :2], heads[..., 2], state


@dataclass
class Rollout:
    """What happened, (T, B) each; `state` is the layer's at its first step."""

    seen: Tensor
    starts: Tensor
    actions: Tensor
    chances: Tensor  # log-probabilities of the actions
    advantages: Tensor
    returns: Tensor
    state: Tensor | None


class Player:
    """Plays a policy in several environments, from one rollout to the next."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings = settings
        mode = gymnasium.vector.AutoresetMode.SAME_STEP
        self.environments = gymnasium.make_vec(
            "CartPole-v1",
            settings.environments,
            "sync",
            vector_kwargs={"autoreset_mode": mode},
        )
        first, _ = self.environments.reset(seed=seed)
        self.now = torch.tensor(first[:, SEEN], dtype=torch.float32)
        self.starts = torch.ones(settings.environments, dtype=torch.bool)
        self.state: Tensor | None = None
        self.lengths = np.zeros(settings.environments)
        self.finished: list[float] = []  # returns of the episodes

    @torch.no_grad()
    def rollout(self, policy: Policy) -> Rollout:
        settings, state, steps = self.settings, self.state, []
        for _ in range(settings.steps):
            logits, value, self.state = policy(
                self.now[None], self.state, self.starts[None]
            )
            chosen = torch.distributions.Categorical(logits=logits[0])
            action = chosen.sample()
            after, reward, ended, cut, _ = self.environments.step(action.numpy())
            done = ended | cut
            self._count(done)
            row = self.now, self.starts, action, chosen.log_prob(action), value[0]
            steps.append((*row, settings.reward * torch.from_numpy(reward).float()))
            self.now = torch.tensor(after[:, SEEN], dtype=torch.float32)
            self.starts = torch.from_numpy(done)
        _, last, _ = policy(self.now[None], self.state, self.starts[None])
        seen, starts, actions, chances, values, rewards = (
            torch.stack(column) for column in zip(*steps, strict=True)
        )
        ends = torch.cat([starts[1:], self.starts[None]])
        advantages = advantages_of(rewards, values, last[0], ends, settings)
        returns = advantages + values
        return Rollout(seen, starts, actions, chances, advantages, returns, state)

    def _count(self, done: np.ndarray) -> None:
        self.lengths += 1  # every step's reward is 1
        self.finished += self.lengths[done].tolist()
        self.lengths[done] = 0


def advantages_of(
    rewards: Tensor, values: Tensor, last: Tensor, ends: Tensor, settings: Settings
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), (T, B).

    An episode that reaches the time limit counts as ended.
    """
    found, advantage = [], torch.zeros_like(last)
    for reward, value, end in zip(
        reversed(rewards), reversed(values), reversed(ends), strict=True
    ):
        goes_on = (~end).float()
        error = reward + settings.discount * goes_on * last - value
        advantage = error + settings.discount * settings.smoothing * goes_on * advantage
        found.append(advantage)
        last = value
    return torch.stack(found[::-1])


def loss_of(policy: Policy, seen: Rollout, rows: Tensor, settings: Settings) -> Tensor:
    """PPO's clipped loss on some environments, each with its whole rollout."""
    state = None if seen.state is None else seen.state[:, rows]
    logits, values, _ = policy(seen.seen[:, rows], state, seen.starts[:, rows])
    chosen = torch.distributions.Categorical(logits=logits)
    ratio = (chosen.log_prob(seen.actions[:, rows]) - seen.chances[:, rows]).exp()
    advantages = seen.advantages[:, rows]
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    gain = torch.minimum(ratio * advantages, clipped * advantages).mean()
    miss = (values - seen.returns[:, rows]).square().mean()
    return miss / 2 - gain - settings.entropy * chosen.entropy().mean()


def train(
    recurrent: bool, settings: Settings, seed: int, verbose: bool = True
) -> float:
    """Train a policy; the mean return of the last 50 episodes that ended."""
    torch.manual_seed(seed)
    policy, player = Policy(settings.hidden, recurrent), Player(settings, seed)
    optimiser = torch.optim.Adam(policy.parameters(), settings.rate, eps=1e-5)
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimiser, 1.0, 0.05, total_iters=settings.updates
    )
    start = time.perf_counter()
    for update in range(1, settings.updates + 1):
        rollout = player.rollout(policy)
        for _ in range(settings.epochs):
            order = torch.randperm(settings.environments)
            for rows in order.chunk(settings.groups):
                optimiser.zero_grad()
                loss_of(policy, rollout, rows, settings).backward()
                nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                optimiser.step()
        schedule.step()
        if verbose and update % 20 == 0:
            print(
                f"  {update * settings.steps * settings.environments:8,} steps, "
                f"{time.perf_counter() - start:4.0f} s: mean return "
                f"{np.mean(player.finished[-50:]):5.0f} of 500"
            )
    player.environments.close()
    return float(np.mean(player.finished[-50:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=Settings.updates)
    parser.add_argument("--quick", action="store_true", help="5 updates of each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(updates=5 if args.quick else args.updates)
    found = {}
    for name, recurrent in (("memoryless", False), ("recurrent", True)):
        print(name)
        found[name] = train(recurrent, settings, args.seed)
    for name, value in found.items():
        print(f"{name}: mean return {value:.0f}")


if __name__ == "__main__":
    main()
