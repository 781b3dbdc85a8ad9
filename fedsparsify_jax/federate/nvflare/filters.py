"""A pair of filters: models cross the network as the sparse messages of this library.

`Encode` is the last filter of whatever leaves server or site, `Decode` the first of
whatever arrives, so that controllers, trainers, and other filters see plain arrays.
"""

from typing import Any

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from fedsparsify_jax.deploy import exchange
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.nvflare import (
    site,  # noqa: F401
    sparse,
)
from fedsparsify_jax.federate.nvflare.arrays import MORE, bits

# The trainer of a site runs in a thread of NVFlare's process, and imports `site`, which
# parses source. CPython 3.11 fails if NVFlare reads an array in another one at that
# moment (gh-106905), so `site` is imported here, before there are threads.

BYTES = "fedsparsify_bytes"
"""The key of a message's meta for the bytes of its arrays on the network."""
ERROR = "fedsparsify_error"
"""The same for why it could not be read."""


class Encode(DXOFilter):
    """Writes a model and its masks as sparse messages.

    Args of the constructor:
      values: dtype of float32 arrays on the network, see `deploy.wire.encode`.
      compress: ``"zstd"`` or nothing.
    """

    def __init__(self, values: str = "float32", compress: str | None = None):
        super().__init__([DataKind.WEIGHTS], None)
        self.values, self.compress = values, compress

    def process_dxo(
        self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext
    ) -> DXO | None:
        """Returns the message with sparse arrays; None if it has no model."""
        values: Any = self.values
        compress: Any = self.compress
        form = exchange.Exchange(values=values, compress=compress)
        arrays = sparse.encoded(form, dxo.data)
        return None if arrays is None else DXO(dxo.data_kind, arrays, dxo.meta)


class Decode(DXOFilter):
    """Reads sparse messages; one that cannot be read says why instead."""

    def __init__(self) -> None:
        super().__init__([DataKind.WEIGHTS], None)

    def process_dxo(
        self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext
    ) -> DXO | None:
        """Returns the message with plain arrays, and how many bytes it had."""
        try:
            meta = dict(dxo.meta) | {BYTES: sparse.size(dxo.data)}
            arrays = sparse.decoded(dxo.data)
            return DXO(dxo.data_kind, dxo.data if arrays is None else arrays, meta)
        except InputError as error:
            meta = dict(dxo.meta) | {ERROR: str(error)}
            return DXO(dxo.data_kind, {MORE: bits(b"refused")}, meta)
