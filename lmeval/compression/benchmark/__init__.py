"""What compression is measured on and against: known corpora, and general-purpose compressors."""
