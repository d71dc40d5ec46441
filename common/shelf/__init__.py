"""Finding, comparing and keeping runs; settings and presets as tables. Nothing heavy here."""
