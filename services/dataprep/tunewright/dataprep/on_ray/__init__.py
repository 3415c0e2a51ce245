"""Data preparation on a Ray cluster: the same map and the same comparisons, as tasks; nothing here decides anything.

    blocks (bytes) ─ objects ─▶ map tasks ─▶ rows, facts ─▶ the stage's scratch folder
                                    └─ band keys, by ranges ─▶ meet tasks ─▶ rows that meet another
    their texts ─ objects ─▶ shingle tasks ─ sets, by ranges ─▶ compare tasks ─▶ verified pairs

Imported only where `launcher: ray` is asked for: nothing else of the room needs Ray.
"""
