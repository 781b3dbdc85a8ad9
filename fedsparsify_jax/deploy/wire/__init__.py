"""Messages: sparse models as bytes, and back.

A message is a safetensors container with the kept values of every array and, unless
the receiver has them, the positions of these; ``docs/formats.md`` describes every byte.

>>> import numpy as np
>>> model = {"params": {"w": np.array([0.0, 1.5, 0.0], np.float32)}}
>>> masks = {"params": {"w": np.array([False, True, True])}}
>>> message = encode(model, masks)
>>> decode(message).masks["params"]["w"].tolist()
[False, True, True]
>>> len(encode(model, known=masks)) < len(message)
True
"""

from fedsparsify_jax.deploy.wire.header import VERSION as VERSION
from fedsparsify_jax.deploy.wire.header import digest as digest
from fedsparsify_jax.deploy.wire.reading import LIMIT as LIMIT
from fedsparsify_jax.deploy.wire.reading import Message as Message
from fedsparsify_jax.deploy.wire.reading import decode as decode
from fedsparsify_jax.deploy.wire.values import VALUES as VALUES
from fedsparsify_jax.deploy.wire.writing import encode as encode

__all__ = ["LIMIT", "VALUES", "VERSION", "Message", "decode", "digest", "encode"]
