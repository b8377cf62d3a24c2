"""Steps, KV pages, scheduling, sampling and speculation.

`engine` is the door: `submit` makes an `answer` (its `sequence`, its `writer`, its `generation`) and puts it on the `roster`.
A `lane` takes steps from there, which the `scheduler` plans with `pages` and with drafts from `speculation`; a `step_layout`
and `paged_attention` over the `kv_memory` carry the step through the trunk; `sampling` chooses tokens, and the `writer`
(`detokenizer`, `stop_strings`, `tokens`) makes deltas of them, which a reader gets from its `generation`.

Where a node is convicted, `sources` know from what `place` on it had a part in a sequence. An audited sequence has a `trail` instead: what of
it still waits for `step_audits`. `delivery` says which of the two a request wants, and `ended_answers` which came to their end too soon.
"""
