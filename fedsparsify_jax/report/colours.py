"""Colours by name, on light and on dark paper.

Series have the colours of Okabe and Ito (2008), which all kinds of sight can tell
apart, with the yellow and the sky blue deepened on light paper for contrast. Shares go
from the paper's grey to deep blue.
"""

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1d2733",
    "quiet": "#5b6673",
    "grid": "#e6eaee",
    "axis": "#9aa5b1",
    "s0": "#0072b2",
    "s1": "#d55e00",
    "s2": "#009e73",
    "s3": "#b8558c",
    "s4": "#a37800",
    "s5": "#3d9bd1",
    "s6": "#5f5bb0",
    "s7": "#4d5761",
    "h0": "#eef1f4",
    "h1": "#d9e6ef",
    "h2": "#bcd6e6",
    "h3": "#98c1da",
    "h4": "#6fa8cb",
    "h5": "#478cb8",
    "h6": "#2a6f9f",
    "h7": "#155280",
    "h8": "#08335a",
}
"""Names to colours for light pages, and for figures that stand alone."""

DARK = {
    "paper": "#171c22",
    "ink": "#e4e9ee",
    "quiet": "#a3aeb9",
    "grid": "#2a323b",
    "axis": "#66727e",
    "s0": "#4aa8e0",
    "s1": "#f08a3c",
    "s2": "#2fc596",
    "s3": "#e08bbb",
    "s4": "#e0b83f",
    "s5": "#9bd0f0",
    "s6": "#a9a5f0",
    "s7": "#c3ccd4",
    "h0": "#222a32",
    "h1": "#20384a",
    "h2": "#1f4a66",
    "h3": "#235e82",
    "h4": "#2f759d",
    "h5": "#468fb5",
    "h6": "#69aacb",
    "h7": "#97c7df",
    "h8": "#d0e7f2",
}
"""The same names for dark pages."""
