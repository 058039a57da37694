"""What a run came to: one frozen value, and the views of it on the terminal, as JSON and as a page."""
