"""Compiling and tracing at a third of their cost; import it before JAX has started."""

import gc
import os

import jax

jax.config.update("jax_num_cpu_devices", 2)  # for sharded cohorts
# Compiling is most of what tests of rounds do; `optimized` in conftest turns this off.
jax.config.update("jax_disable_most_optimizations", True)
# So does leaving out a kind of fusion, for half of that time. Two programs would then
# fuse multiplications and additions differently, if the processor could do that.
# And a program need not be split over threads where every core has a test process.
# Flags are read when JAX starts; command lines that tests start compile as for users.
_FLAGS = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = (
    f"{_FLAGS} --xla_cpu_use_fusion_emitters=false --xla_cpu_max_isa=AVX"
    " --xla_cpu_parallel_codegen_split_count=1"
)
jax.devices()
os.environ["XLA_FLAGS"] = _FLAGS

# Tracing makes many objects and few circles: to look for these took a fifth of it.
gc.freeze()  # what was imported stays
gc.set_threshold(200_000, 20, 50)
