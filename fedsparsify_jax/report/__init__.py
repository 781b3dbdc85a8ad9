"""Reports of runs and sweeps: one page, Markdown, or figures.

`reading` takes what run directories hold, `settings` puts repetitions together,
`figures` and `tables` say what is shown, and `page`, `markdown`, `svg` and `png` how.
"""

from fedsparsify_jax.report.command import ReportConfig, report

__all__ = ["ReportConfig", "report"]
