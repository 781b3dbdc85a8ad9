"""Commands on trained models: ``export``, ``inspect``, ``predict``, ``evaluate``."""
