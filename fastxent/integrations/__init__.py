"""fastxent in other people's training loops: one file for each library."""
