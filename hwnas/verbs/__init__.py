"""One public function per command: what the shell can do, a notebook can do."""
