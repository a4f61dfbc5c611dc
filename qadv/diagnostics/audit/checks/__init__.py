"""The checks, one idea per file; each is a component, by its name in `qadv list audit-check`."""
