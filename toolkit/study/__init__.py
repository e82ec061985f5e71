"""The paper's study: a grid of variants and seeds, measured, and laid beside the published figures."""
