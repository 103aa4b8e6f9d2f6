"""Which of several equal nodes is asked next, and who is left out because it failed. Imports `placement`."""
