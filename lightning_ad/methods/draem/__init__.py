"""DRAEM: reconstructive and discriminative sub-networks, trained on synthetic anomalies."""
