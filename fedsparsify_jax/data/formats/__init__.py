"""File formats: bounded, validated reading without pickle."""
