"""From Flax linen, NNX or plain functions to `Model`."""
