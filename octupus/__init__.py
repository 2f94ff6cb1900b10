"""Train, serve and measure tool-calling language models; see README.md for the map of the rooms."""
