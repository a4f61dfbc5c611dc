"""Studies: a TOML file → cells → results → a report."""
