"""CFA: coupled-hypersphere-based feature adaptation."""
