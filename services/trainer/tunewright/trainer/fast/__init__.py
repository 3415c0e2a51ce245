"""The fast path: QLoRA of Llama-shaped decoders with a hand-written forward and backward pass.

    reading ─ what of a PEFT model it computes with, or why it cannot
    linear ─ frozen NF4 layers with their adapters, those of one input together
    layer ─ one decoder layer, forward and backward; attention ─ documents that see themselves
    loss ─ head and cross-entropy; dropout ─ masks that are a function of their place
    path ─ one optimizer step's documents, in passes without padding; planning ─ how large they are, and what is kept,
    by passes ─ the arithmetic of their memory
    placing ─ what of the model goes to host memory: streaming ─ layers' weights; offload ─ layers' inputs
    arithmetic ─ the elementwise parts in plain torch; kernels ─ the same as Triton kernels

Weights stay bitsandbytes', adapters stay PEFT's, gradients land where autograd would put them: checkpoints, adapters
and evaluations know nothing of it. Legend of shapes: T tokens of a pass, D width of the model, F width of the MLP,
K inputs and N outputs of a linear layer, R ranks of its adapters, H heads, V vocabulary.
"""
