"""Tables of ops: which multiply with weights, how they read them, and which layouts nodes cannot rebuild."""
