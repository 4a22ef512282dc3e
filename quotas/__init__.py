"""How much anybody may have, and what there is. Names subjects by (kind, key), no foreign key upward."""
