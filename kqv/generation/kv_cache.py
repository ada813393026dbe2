"""The KV cache: keys and values of earlier tokens, which do not change as a text grows.

KVCache       of self-attention: one more token each step
SourceCache   of cross-attention: those of the source, which stay
"""

import torch
from torch import Tensor

ROOM = 8  # slots that a cache has free at least when it grows


class KVCache:
    """Keys and values of one layer, in a ring of the last `reach` positions.

    An `Observer` of model.py. The first tokens that it sees are the prompt, later ones come one by
    one. keys and values are (batch, heads, slots, d_k), float32; position p is in slot p % reach.
    With `grows`, there are only as many slots as the text needs, up to `reach`.
    """

    keys: Tensor
    values: Tensor
    slots: Tensor

    def __init__(self, reach: int, grows: bool = False) -> None:
        self.reach, self.grows = reach, grows
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
        if slot == self.keys.shape[2]:
            self._grow()
        index = self.slots[slot : slot + 1]
        self.keys.index_copy_(2, index, key)
        self.values.index_copy_(2, index, value)
        self.seen += 1
        stored = min(self.seen, self.reach)
        return self.keys[:, :, :stored], self.values[:, :, :stored]

    def select(self, rows: Tensor) -> None:
        """Go on with these rows of the batch, int64 (new batch,); one may come several times."""
        stored = min(self.seen, self.reach)
        if self.grows:
            self.keys, self.values = self.keys[:, :, :stored], self.values[:, :, :stored]
        self.keys, self.values = self.keys[rows], self.values[rows]

    def _grow(self) -> None:
        batch, heads, slots, d_k = self.keys.shape
        more = min(max(ROOM, slots // 2), self.reach - slots)
        room = self.keys.new_zeros(batch, heads, more, d_k)
        self.keys = torch.cat((self.keys, room), dim=2)
        self.values = torch.cat((self.values, room), dim=2)

    def _prefill(self, key: Tensor, value: Tensor) -> None:
        batch, heads, time, d_k = key.shape
        self.slots = torch.arange(self.reach, device=key.device)
        slots = min(self.reach, time + ROOM) if self.grows else self.reach
        self.keys = torch.zeros(batch, heads, slots, d_k, device=key.device)
        self.values = torch.zeros_like(self.keys)
        last = torch.arange(time, device=key.device)[-self.reach :] % self.reach
        self.keys[:, :, last] = key[:, :, -self.reach :].float()
        self.values[:, :, last] = value[:, :, -self.reach :].float()
        self.seen = time


class SourceCache:
    """Keys and values of the sources in one layer, (sources, heads, source_time, d_k), float32.

    An `Observer` of model.py's cross-attention: it stores those that it sees first, and returns
    them ever after. Several texts may translate one source, and it is stored once.
    """

    keys: Tensor | None = None
    values: Tensor

    def see(self, query: Tensor, key: Tensor | None, value: Tensor | None) -> tuple[Tensor, Tensor]:
        """The keys and values of the sources: those given, if they are the first."""
        if self.keys is None:
            assert key is not None and value is not None
            self.keys, self.values = key.float(), value.float()
            return key, value
        return self.keys, self.values

    def select(self, sources: Tensor) -> None:
        """Go on with these sources, int64 (new sources,)."""
        assert self.keys is not None
        self.keys, self.values = self.keys[sources], self.values[sources]
