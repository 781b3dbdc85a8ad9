"""The kinds of messages between the server and a node, in the order of a federation.

The server asks, and a node answers with the kind beside it, with `FAILED`, or with what
it lacks.

    JOIN     the options and facts of the data    JOINED    who it is, how many examples
    BEGIN    the examples of the largest client   READY     its program is compiled
    TRAIN    the model of a round                 TRAINED   its upload
    ENCRYPT  the elected masks                    ENCRYPTED its weights under them
    DECRYPT  the sum of what was encrypted        DECRYPTED that of the key holder
"""

JOIN, JOINED = "join", "joined"
BEGIN, READY = "begin", "ready"
TRAIN, TRAINED = "train", "trained"
ENCRYPT, ENCRYPTED = "encrypt", "encrypted"
DECRYPT, DECRYPTED = "decrypt", "decrypted"

LACKS = "lacks"
"""Answer of a node that was started anew: fact ``what`` is JOIN, or MASKS."""
MASKS = "masks"
"""Lacked by a node that does not have the masks that the model is coded against."""

FORMAT = 1
"""Version of these messages."""
