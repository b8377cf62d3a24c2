"""The `folkmoot` command: thin, one file a subcommand. Importing it imports nothing heavy."""
