"""A federation as a job of NVFlare."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from nvflare.app_common.executors.client_api_executor import (
    ClientAPIExecutor,
    ExecutionMode,
)
from nvflare.client.config import ExchangeFormat
from nvflare.job_config.api import FedJob
from nvflare.job_config.defs import FilterType

from fedsparsify_jax.federate.nvflare import client
from fedsparsify_jax.federate.nvflare.aggregator import SparseAggregator
from fedsparsify_jax.federate.nvflare.controller import SparseRounds
from fedsparsify_jax.federate.nvflare.filters import Decode, Encode
from fedsparsify_jax.runner.messages import exchange_of
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import to_json

SCRIPT = Path(client.__file__)
"""The program of a site, which jobs contain."""
TRAIN = ["train"]
"""The tasks of the job."""


def job_of(
    name: str,
    config: TrainConfig,
    sites: Sequence[str],
    *,
    rounds: int,
    own_data: bool = False,
    arguments: Sequence[str] = (),
) -> FedJob:
    """Returns the job of a federation.

    Args:
      name: of the job.
      config: resolved, with `out`.
      sites: names of NVFlare's clients, in the order of the simulation's.
      rounds: that are left.
      own_data: whether sites have data of their own.
      arguments: of `client.main`.
    """
    form = exchange_of(config)
    job = FedJob(name=name, min_clients=len(sites), mandatory_clients=list(sites))
    job.set_app_packages(["fedsparsify_jax"])
    aggregator = SparseAggregator(to_json(config), list(sites), own_data)
    job.to_server(SparseRounds(aggregator, num_rounds=rounds + 1))
    executor = ClientAPIExecutor(
        execution_mode=ExecutionMode.IN_PROCESS,
        task_script_path=SCRIPT.name,
        task_script_args=" ".join(quote(word, safe="/{}") for word in arguments),
        params_exchange_format=ExchangeFormat.NUMPY,
    )
    job.to_clients(executor, tasks=TRAIN)
    job.add_file_to_clients(str(SCRIPT))

    # What leaves a side is encoded there, and decoded where it arrives.
    encode = Encode(form.values, form.compress)
    data, result = FilterType.TASK_DATA, FilterType.TASK_RESULT
    job.to_server(encode, filter_type=data, tasks=TRAIN)
    job.to_clients(Decode(), filter_type=data, tasks=TRAIN)
    job.to_clients(encode, filter_type=result, tasks=TRAIN)
    job.to_server(Decode(), filter_type=result, tasks=TRAIN)
    return job
