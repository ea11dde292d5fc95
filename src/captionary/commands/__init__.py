"""The verbs of the command line that are more than one stage of `run`: a file each, light to import."""
