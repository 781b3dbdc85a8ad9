"""The README of a project for Flower: a server and its nodes, command by command."""

_TEXT = """# A federation over Flower

A server and its nodes train one model, and no example leaves its node. `fedsparsify
federate init` wrote this directory on the server. The commands below are for a server
that its nodes reach as `HOST`, and for client 0; the other nodes do the same with their
numbers. In every terminal of every machine:

```sh
# every terminal
export FLWR_HOME=$PWD/flower
export FLWR_TELEMETRY_ENABLED=0
export FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
mkdir -p $FLWR_HOME
```

Without the three variables Flower reports its use, looks for updates, and installs
what a project asks for. All machines need `pip install "fedsparsify_jax[flower]"`, the
same version.

## 1. Files

* `federation.json` has the options of the run, as `fedsparsify train` knows them, and how
  long the server waits. The server evaluates on the test set of its own data.
* `nodes/0.json` is for client 0: fill in where its data are (`data_dir`). All of them are
  that client's. They have the shape and the classes of the server's.
* With `--secure HOST`: copy `tls/ca.crt`, `nodes/0.json` and the pair `keys/node-0`,
  `keys/node-0.pub` to the node of client 0, and delete `keys/node-0` here.
  `tls/server.key` stays here. Without `--secure`, leave out every option below that
  names `tls` or `keys`, and give `--insecure` in their place: for trials alone.

## 2. The server

```sh
# server, stays open
flower-superlink --host 0.0.0.0 --port 8000 --disable-runtime-dependency-installation \\
  --ssl-ca-certfile tls/ca.crt --ssl-certfile tls/server.pem --ssl-keyfile tls/server.key \\
  --enable-supernode-auth
```

In a second terminal:

```sh
# server
cat > $FLWR_HOME/config.toml <<END
[superlink]
default = "federation"
[superlink.federation]
address = "localhost:8000"
root-certificates = "$PWD/tls/ca.crt"
END
flwr supernode register keys/node-0.pub federation
```

and so on for every node. Whoever can log in to the server can start runs; keep the
port closed to all but the nodes.

## 3. Each node

A node has two processes. The first holds the data and the compiled programs, and
answers messages at a Unix socket. It ends with the terminal or the service that started
it:

```sh
# node 0, stays open
python -m fedsparsify_jax.federate.worker --socket $PWD/socket-0/node.sock --settings nodes/0.json
```

The second one connects to the server. It needs flwr alone, and may live in an
environment of its own:

```sh
# node 0, stays open
flower-supernode --superlink HOST:8000 --host 127.0.0.1 --port 9100 --root-certificates tls/ca.crt \\
  --auth-supernode-private-key keys/node-0 --node-config "socket=\\"$PWD/socket-0/node.sock\\""
```

A node that lost its power or its line counts as connected for up to a minute, and is
refused as "Failed to activate" for as long; then start it again. It goes on as the same
client.

## 4. The run

```sh
# server
flwr run . federation --stream
```

The run directory is the one that `federation.json` names as `out`. A server that was
stopped goes on with `"resume": true` there. `flwr ls federation` lists runs, and
`flwr stop RUN federation` stops one.
"""


def text() -> str:
    """Returns the README of a project."""
    return _TEXT
