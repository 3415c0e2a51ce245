"""Which rank and learning rate a run takes: short trials on one base, then the run itself from the best of them.

    space ─ what a trial changes in the spec → study ─ Optuna: what to try next, what to end early, in a journal file
    trials ─ a trial after another, the best one trained on → page ─ all of them as JSON and as a page with plots
    shared_base ─ one base, a fresh adapter each trial; reporting ─ progress and checkpoints over all of them

A trial is the beginning of a run with its settings, the whole run's schedule included. So nothing of the best trial is
lost: the run goes on from its last checkpoint, and ends in the bytes of a run that was asked for with these settings.
"""
