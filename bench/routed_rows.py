"""Rows as a router with favourites would send them: made from a seed, with popular experts and experts that fire together.

Guarantees: the same seed gives the same rows. How it is done: every layer ranks its experts in an order of its own, and expert number r of
it has the weight r to the power of -s (Zipf). Every token is about a topic, of which there are some dozens with Zipf weights of
their own, and a little about a second one; each layer has for each topic some experts that it favours, by a factor. The router takes
the K experts with the largest log weight, plus favour, plus Gumbel noise: that is, draws without replacement in proportion to
weight times favour.

Letters: R rows, L layers, E experts of a layer, K experts of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Routed = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RoutedRows:
    """A router's habits.

    Attributes:
        layers, experts, top_k: The model's.
        seed: What its habits are drawn from.
        zipf: The exponent of experts' popularity.
        topics: What tokens can be about.
        favoured: Experts of a layer that a topic favours.
        favour: How many times likelier it makes them.
    """

    layers: int
    experts: int
    top_k: int
    seed: int
    zipf: float = 1.0
    topics: int = 48
    favoured: int = 24
    favour: float = 24.0

    def rows(self, count: int, seed: int) -> list[Routed]:
        """For each layer [R, K]: where each of `count` tokens goes."""
        habits, tokens = np.random.default_rng(self.seed), np.random.default_rng([self.seed, seed])
        weights = 1.0 / np.arange(1, self.topics + 1)
        topic = tokens.choice(self.topics, count, p=weights / weights.sum())
        second = tokens.choice(self.topics, count, p=weights / weights.sum())
        ranks = -self.zipf * np.log(np.arange(1, self.experts + 1))
        routed = []
        for _ in range(self.layers):
            popularity = np.empty(self.experts)
            popularity[habits.permutation(self.experts)] = ranks
            favours = np.zeros((self.topics, self.experts))
            for one in range(self.topics):
                favours[one, habits.choice(self.experts, self.favoured, replace=False)] = np.log(self.favour)
            logits = popularity + favours[topic] + 0.5 * favours[second]
            logits += tokens.gumbel(size=logits.shape)
            routed.append(np.argpartition(-logits, self.top_k, axis=1)[:, : self.top_k].astype(np.int64))
        return routed
