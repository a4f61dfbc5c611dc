"""What `qadv report` makes of a bench's results: a page, Markdown tables, and a JSON file per network."""
