"""From log-odds to bits and back, in integers on which encoder and decoder agree."""
