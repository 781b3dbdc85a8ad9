"""All tables by name, each with the function that reports it."""

from experiments import fashion_mnist
from experiments.reporting import ReportOf
from experiments.tables import Table

MODULES = (fashion_mnist,)

TABLES: dict[str, tuple[Table, ReportOf]] = {
    module.TABLE.name: (module.TABLE, module.report) for module in MODULES
}
