"""The audit trail: who did what to which thing, in rows nobody can change unseen. Knows no other app of the house."""
