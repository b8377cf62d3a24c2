"""Expert arithmetic: weight formats and the expert feed-forward."""
