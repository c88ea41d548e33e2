"""What is known of ops: which multiply with weights, how they read them, and which nodes cannot rebuild."""
