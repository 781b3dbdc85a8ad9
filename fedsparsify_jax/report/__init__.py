"""Reports of runs and sweeps: one page, Markdown, or figures.

`reading` reads run directories, `settings` groups the runs by their options, `results`
has means, spreads and differences over seeds. `lines`, `figures_of_run`, `panels` and
`tables` turn these into charts and rows, `content` into sections. `drawing` lays charts
out; `page`, `markdown`, `svg` and `png` are the formats.
"""

from fedsparsify_jax.report.command import ReportConfig, report

__all__ = ["ReportConfig", "report"]
