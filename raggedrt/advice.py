"""What a user can change so that a refusal goes away: one row per kind of reason."""

from __future__ import annotations

import re

# Found in the reason -> what to change. The first row that is found counts; reasons that say it themselves have no row.
ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"has no attention_mask input",
        "give the model a padding mask [batch, sequence] named attention_mask; without one nothing is padding",
    ),
    (r"no attention was found", "nothing where the model has no attention; otherwise see the Softmax nodes"),
    (r"weights are used for something else", "export with output_attentions=False"),
    (r"Einsum", "write the product as MatMul, or export with attn_implementation 'sdpa' or 'eager'"),
    (
        r"weights pass through|scores pass through|no product of queries and keys|come from outside the graph",
        "export with attn_implementation 'sdpa' or 'eager', or add this form to graph_passes/sites/",
    ),
    (r"multiplied by .* after the mask|multiplied by zero", "scale the queries instead of the masked scores"),
    (r"works along axis", "put the keys last before the Softmax"),
    (
        r" ranks |not laid out as|do not begin with the batch",
        "lay query, key and value out as [batch, heads, slots, head size]",
    ),
    (
        r"only at run time|not known before run time",
        "export with fixed feature sizes: only batch and sequence may be dynamic",
    ),
    (
        r"no transfer rule|no rule says",
        "add a row for the op to graph_passes/axes/rules.py, or export without the op",
    ),
    (
        r"mixes tokens|mixes sequences|tokens by tokens|other tokens|by computed indices|joins tensors",
        "move the op behind the model (an output of its own), or have it respect attention_mask",
    ),
    (
        r"the axes of .* (mean|are not understood)|what the axes of",
        "see the nodes at which the meaning of axes is lost",
    ),
    (r"cannot be laid out|merges (batch|slots)|pairs slots|no packed form", "keep [batch, sequence, ...] apart there"),
    (r"\bpast\b|cache", "say --prefill, or export the prefill without past_key_values (use_cache=False)"),
    (r"op library lacks", "choose a target whose op library has it (raggedrt list targets)"),
    (r"element type", "export in one element type that the target serves (--dtype fp32 or fp16)"),
    (
        r"does not hide padded keys|shows every key|may see no valid key|does not always see itself",
        "have the mask hide padded keys and show every token to itself",
    ),
)
SAYS_IT_ITSELF = re.compile(r"; (multiply|replace|export|with --|use|pass|give)|--accept-approximation")


def advice_for(reason: str) -> str | None:
    """What to change, None where nothing is known or the reason says it."""
    if SAYS_IT_ITSELF.search(reason):
        return None
    return next((text for pattern, text in ADVICE if re.search(pattern, reason)), None)
