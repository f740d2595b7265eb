"""Several processes of one gateway on one port: started, watched, asked and ended together."""
