"""Messages as NVFlare's `FLModel`, with what the filters have noted."""

from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from fedsparsify_jax.federate.nvflare.arrays import FACTS, Content
from fedsparsify_jax.federate.nvflare.filters import BYTES, ERROR


def model_from(content: Content) -> FLModel:
    """Returns a message as NVFlare sends it."""
    return FLModel(
        params_type=ParamsType.FULL,
        params=dict(content.arrays),
        meta={FACTS: dict(content.facts)},
    )


def content_of(model: FLModel, direction: str) -> Content:
    """Returns a message as it has arrived.

    Args:
      model: that NVFlare has received.
      direction: ``"up"`` or ``"down"``.
    """
    meta = model.meta or {}
    facts, arrays = meta.get(FACTS), model.params
    facts = dict(facts) if isinstance(facts, dict) else {}
    facts[f"bytes_{direction}"] = meta.get(BYTES, 0)
    if ERROR in meta:
        facts["error"] = meta[ERROR]
    return Content(arrays if isinstance(arrays, dict) else {}, facts)
