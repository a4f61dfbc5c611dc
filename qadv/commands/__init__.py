"""What the commands do and print, a file each: the faces of Python calls."""
