"""The audit trail: who did what with whose data (PS3.15 §A.5 to §A.7)."""
