"""Bytes as Flower's records, both ways.

One ``Array`` of unsigned bytes, which Flower sends in chunks of 5 MiB by default and
stores once for all nodes if it is the same for them. This file needs flwr alone:
projects contain a copy of it.
"""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

_CONTENT, _BYTES, _STATUS, _ERROR = "content", "bytes", "status", "error"


def packed(content: bytes, error: str = "") -> RecordDict:
    """Returns the records of a message or a reply."""
    array = Array(dtype="uint8", shape=(len(content),), stype="bytes", data=content)
    return RecordDict(
        {
            _CONTENT: ArrayRecord({_BYTES: array}),
            _STATUS: ConfigRecord({_ERROR: error}),
        }
    )


def unpacked(records: RecordDict) -> tuple[bytes, str]:
    """Returns the content and the error of a message or a reply.

    Raises:
      ValueError: for records that `packed` has not made.
    """
    try:
        content = records.array_records[_CONTENT][_BYTES].data
        error = records.config_records[_STATUS][_ERROR]
    except KeyError as missing:
        raise ValueError(f"a message without {missing}") from missing
    return content, str(error)
