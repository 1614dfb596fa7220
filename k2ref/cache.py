"""What decoding remembers: per layer and token the normed latent and the rotated shared key.

For the real model these are 512 + 64 values; expanded keys and values would be 20,480.
"""

import numpy as np

from k2ref.config import Config


class LatentCache:
    """The latents and keys of all tokens seen so far, one pair of growing arrays per layer."""

    def __init__(self, config: Config, dtype: np.dtype) -> None:
        C, R = config.kv_lora_rank, config.qk_rope_head_dim
        self._latent_LSC = [np.empty((0, C), dtype) for _ in range(config.num_hidden_layers)]
        self._key_rope_LSR = [np.empty((0, R), dtype) for _ in range(config.num_hidden_layers)]
        self.position_S = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.position_S)

    @property
    def nbytes(self) -> int:
        """Bytes that are held, spare room included."""
        return sum(a.nbytes for a in [*self._latent_LSC, *self._key_rope_LSR])

    def extend(
        self, layer: int, latent_TC: np.ndarray, key_rope_TR: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Append a chunk to a layer: layer, latent_TC, key_rope_TR -> latent_SC, key_rope_SR."""
        place, stop = len(self), len(self) + len(latent_TC)
        for store, new in ((self._latent_LSC, latent_TC), (self._key_rope_LSR, key_rope_TR)):
            if stop > len(store[layer]):
                room = np.empty((max(stop, 2 * len(store[layer])), new.shape[1]), new.dtype)
                room[:place] = store[layer][:place]
                store[layer] = room
            store[layer][place:stop] = new
        return self._latent_LSC[layer][:stop], self._key_rope_LSR[layer][:stop]

    def rows(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Look at what a layer holds: layer -> latent_SC, key_rope_SR."""
        return self._latent_LSC[layer][: len(self)], self._key_rope_LSR[layer][: len(self)]

    def advance(self, position_T: np.ndarray) -> None:
        """Count a chunk as seen, after every layer was extended by it: position_T."""
        self.position_S = np.concatenate([self.position_S, position_T])
