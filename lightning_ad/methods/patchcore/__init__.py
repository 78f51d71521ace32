"""PatchCore: a coreset of the patches of good images."""
