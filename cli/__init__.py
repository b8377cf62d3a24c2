"""The folkmoot command: one thin file a subcommand."""
