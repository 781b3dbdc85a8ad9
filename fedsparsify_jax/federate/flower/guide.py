"""The README of a project for Flower: a server and two nodes, command by command."""

_TEXT = """# A federation over Flower

A server and its nodes train one model, and no example leaves its node. These are the
commands for three machines: `server.example.org` and two nodes, `north` and `south`.
Put your server's name in place of `server.example.org`.

## On all machines

    pip install "fedsparsify_jax[flower]"
    export FLWR_HOME=$PWD/flower
    export FLWR_TELEMETRY_ENABLED=0
    export FLWR_DISABLE_UPDATE_CHECK=1
    export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
    mkdir -p $FLWR_HOME

Without the three variables Flower reports its use, looks for updates, and installs
what a project asks for.

## 1. Certificates and keys

On the server:

    python -m fedsparsify_jax.federate.flower.security certificates tls \\
        --host server.example.org

Copy `tls/ca.crt` to the nodes. `tls/server.key` stays on the server.

On `north`, and on `south` with its name:

    python -m fedsparsify_jax.federate.flower.security key keys north

Copy `keys/north.pub` and `keys/south.pub` to `keys` on the server. The files without
`.pub` stay on their nodes.

## 2. The server

    flower-superlink --host 0.0.0.0 --port 8000 \\
        --disable-runtime-dependency-installation \\
        --ssl-ca-certfile tls/ca.crt --ssl-certfile tls/server.pem \\
        --ssl-keyfile tls/server.key --enable-supernode-auth

In a second terminal of the server, with the variables from above, write
`$FLWR_HOME/config.toml`:

    [superlink]
    default = "federation"
    [superlink.federation]
    address = "127.0.0.1:8000"
    root-certificates = "/absolute/path/of/tls/ca.crt"

and admit the nodes:

    flwr supernode register keys/north.pub federation --name north
    flwr supernode register keys/south.pub federation --name south

Whoever can log in to the server can start runs; keep the port closed to all but the
nodes.

## 3. Each node

A node has two processes. The first holds the data and the compiled programs, and
answers messages at a Unix socket:

    python -m fedsparsify_jax.federate.worker \\
        --socket $PWD/socket/node.sock --settings node.json

`node.json` has the node's settings. The process ends with the terminal or the service
that started it. The second one connects to the server:

    flower-supernode --superlink server.example.org:8000 --port 9094 \\
        --root-certificates tls/ca.crt --auth-supernode-private-key keys/north \\
        --node-config "socket=\\"$PWD/socket/node.sock\\""

A node that lost its power or its line counts as connected for up to a minute, and is
refused as "Failed to activate" for as long; then start it again. The second process
needs flwr alone: if a package of yours asks for versions that flwr excludes, give it an
environment of its own.

## 4. The run

On the server, in the second terminal:

    flwr run . federation --stream

The settings of the run are in `pyproject.toml`, under `[tool.flwr.app.config]`.
`flwr ls federation` lists runs, and `flwr stop RUN federation` stops one.
"""


def text() -> str:
    """Returns the README of a project."""
    return _TEXT
