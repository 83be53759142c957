"""What proves that objects are whole and what happened to them; works away from the node too."""
