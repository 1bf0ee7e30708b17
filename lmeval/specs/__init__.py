"""What a user writes in YAML: task files, and the templates in them."""
