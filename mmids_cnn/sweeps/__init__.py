"""Which settings are best: a space is searched, the winner confirmed, all in one folder."""
