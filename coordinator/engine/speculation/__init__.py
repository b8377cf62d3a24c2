"""Guesses of a sequence's next tokens, so that one step, and so one round trip a layer, may yield several.

`drafter` is the door: it asks `prompt_lookup` for a guess as long as `draft_length` finds worth while. A guess costs time when
it is wrong and nothing else: whether it is right is decided by the lane, which keeps only what the model itself chooses.
Pure decisions: no tensors, no threads, no clock.
"""
