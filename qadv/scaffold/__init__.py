"""`qadv new-plugin`: a distribution with one component, its tests and its entry point, written from templates."""
