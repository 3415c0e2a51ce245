"""What a run will take before anything is loaded: memory, time and disk of every method, and what would fit.

    shapes ─ a base's config.json as linear layers and widths → counting ─ parameters, all and trained
    lengths ─ tokens of the dataset's rows → memory ─ bytes at the peak → timing, disk
    planner ─ a table of methods, the largest micro-batch that fits, and what to change where nothing does
    machine ─ what it runs on; __main__ ─ a question on standard input, the answer on standard output

Arithmetic over config.json: no weights and no model library, so an answer takes a second. The fast path's part is
`fast/passes.py`, which the trainer itself plans with. Bytes, GB of 10^9 bytes, seconds.
"""
