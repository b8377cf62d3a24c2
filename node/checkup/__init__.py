"""Whether a machine is fit to be a node: what `folkmoot node doctor` looks at."""
