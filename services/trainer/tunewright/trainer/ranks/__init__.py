"""One run by several processes (ranks), one GPU each: of this machine, or of a Ray cluster.

    launching   parent: how many there are; starts them, hears them, starts them again from the newest checkpoint
    local       parent: processes of this machine
    worker      rank: runs the same stage as a run alone does
    group       rank: what all must agree on: stop, losses, counts
    sharing     rank: which rows of a step are whose; the step's rows are those of one process

Only rank 0 reports, and writes checkpoints and the artifact.
"""
