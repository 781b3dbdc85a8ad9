"""A federation over NVFlare: its controller's rounds, with this library's halves."""
