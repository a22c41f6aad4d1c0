"""Lower attention where nothing is packed: rows of one length, masks used as they are (the feature `sparse`)."""
