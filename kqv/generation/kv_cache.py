"""The KV cache: keys and values of earlier tokens, which do not change as a text grows."""

import torch
from torch import Tensor


class KVCache:
    """Keys and values of one layer, in a ring of the last `reach` positions.

    An `Observer` of model.py. The first tokens that it sees are the prompt, later ones come one by
    one. keys and values are (batch, heads, reach, d_k), float32; position p is in slot p % reach.
    """

    keys: Tensor
    values: Tensor
    slots: Tensor

    def __init__(self, reach: int) -> None:
        self.reach = reach
        self.seen = 0  # tokens so far, those that the ring has dropped included

    def see(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values of new tokens, (batch, heads, time, d_k).

        Returns the keys and values to attend over: those of the prompt during prefill, all that are
        stored in a decode step.
        """
        if self.seen == 0:
            self._prefill(key, value)
            return key, value
        slot = self.seen % self.reach
        index = self.slots[slot : slot + 1]
        self.keys.index_copy_(2, index, key)
        self.values.index_copy_(2, index, value)
        self.seen += 1
        stored = min(self.seen, self.reach)
        return self.keys[:, :, :stored], self.values[:, :, :stored]

    def _prefill(self, key: Tensor, value: Tensor) -> None:
        batch, heads, time, d_k = key.shape
        self.slots = torch.arange(self.reach, device=key.device)
        self.keys = torch.zeros(batch, heads, self.reach, d_k, device=key.device)
        self.values = torch.zeros_like(self.keys)
        last = torch.arange(time, device=key.device)[-self.reach :] % self.reach
        self.keys[:, :, last] = key[:, :, -self.reach :].float()
        self.values[:, :, last] = value[:, :, -self.reach :].float()
        self.seen = time
