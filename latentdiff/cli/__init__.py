"""The `latentdiff` command. Each subcommand is one module, loaded only when it is called."""
